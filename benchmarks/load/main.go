// A load client: sends prepared requests to one gRPC method and tells how long each reply took.
//
//	load -address HOST:PORT -method /package.Service/Method -requests FILE [-concurrency N | -rate N] ...
//
// FILE holds requests as they go over the wire, each behind its length (uint32, little-endian). With -rate it sends at
// Poisson times, whatever comes back, and counts a latency from the time at which a request was meant to be sent.
// Without, each of -concurrency callers sends its next request when the reply to its last is there. Prints one JSON
// object; -replies names a file for some of the replies (float64 seconds and a length before each).
package main

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"flag"
	"log"
	"math"
	"math/rand"
	"os"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc"
)

// Every so many replies one is kept.
const sample = 4

// raw sends and receives bytes as they are.
type raw struct{}

func (raw) Marshal(v interface{}) ([]byte, error) { return *v.(*[]byte), nil }
func (raw) Unmarshal(data []byte, v interface{}) error {
	*v.(*[]byte) = append([]byte(nil), data...)
	return nil
}
func (raw) Name() string { return "proto" }

type result struct {
	seconds float64 // latency
	reply   []byte  // of every few
	failure string
}

type report struct {
	Elapsed   float64        `json:"elapsed"` // seconds
	Latencies []float64      `json:"latencies"`
	Failures  map[string]int `json:"failures"` // by message
	CPU       float64        `json:"cpu"`      // seconds of this process
}

func main() {
	address := flag.String("address", "", "host:port")
	method := flag.String("method", "", "/package.Service/Method")
	requests := flag.String("requests", "", "file of requests")
	replies := flag.String("replies", "", "file to write some replies to")
	concurrency := flag.Int("concurrency", 1, "callers of a closed loop")
	rate := flag.Float64("rate", 0, "requests a second of an open loop; 0: closed")
	connections := flag.Int("connections", 1, "connections that callers share")
	seconds := flag.Float64("seconds", 2, "how long to send")
	warm := flag.Float64("warm", 0.2, "seconds of a closed loop before, not counted")
	seed := flag.Int64("seed", 1, "of the Poisson times")
	flag.Parse()

	messages := read(*requests)
	callers := make([]*grpc.ClientConn, *connections)
	for number := range callers {
		conn, err := grpc.Dial(*address, grpc.WithInsecure(), grpc.WithBlock(),
			grpc.WithDefaultCallOptions(grpc.ForceCodec(raw{})),
			// A connection of its own each, also where several processes listen on one port.
			grpc.WithUserAgent("load"))
		if err != nil {
			log.Fatal(err)
		}
		callers[number] = conn
	}
	send := func(number int, from time.Time) result {
		request, reply := messages[number%len(messages)], []byte(nil)
		err := callers[number%len(callers)].Invoke(context.Background(), *method, &request, &reply)
		found := result{seconds: time.Since(from).Seconds()}
		if err != nil {
			found.failure = err.Error()
		} else if number%sample == 0 {
			found.reply = reply
		}
		return found
	}
	closed(send, *concurrency, *warm)
	before, begun := cpu(), time.Now()
	var found []result
	if *rate > 0 {
		found = open(send, *rate, *seconds, *seed)
	} else {
		found = closed(send, *concurrency, *seconds)
	}
	tell(found, report{Elapsed: time.Since(begun).Seconds(), CPU: cpu() - before}, *replies)
}

// closed lets each caller send when it has its reply.
func closed(send func(int, time.Time) result, concurrency int, seconds float64) []result {
	found := make([][]result, concurrency)
	until := time.Now().Add(time.Duration(seconds * 1e9))
	var wait sync.WaitGroup
	for caller := range found {
		wait.Add(1)
		go func(caller int) {
			defer wait.Done()
			for number := caller; time.Now().Before(until); number += concurrency {
				found[caller] = append(found[caller], send(number, time.Now()))
			}
		}(caller)
	}
	wait.Wait()
	return join(found)
}

// open sends at Poisson times and waits for nobody.
func open(send func(int, time.Time) result, rate, seconds float64, seed int64) []result {
	random := rand.New(rand.NewSource(seed))
	var meant []time.Duration
	for at := random.ExpFloat64() / rate; at < seconds; at += random.ExpFloat64() / rate {
		meant = append(meant, time.Duration(at*1e9))
	}
	found := make([]result, len(meant))
	begun := time.Now()
	var wait sync.WaitGroup
	for number, at := range meant {
		time.Sleep(time.Until(begun.Add(at)))
		wait.Add(1)
		go func(number int, from time.Time) {
			defer wait.Done()
			found[number] = send(number, from)
		}(number, begun.Add(at))
	}
	wait.Wait()
	return found
}

func join(found [][]result) []result {
	var all []result
	for _, some := range found {
		all = append(all, some...)
	}
	return all
}

func tell(found []result, told report, replies string) {
	told.Failures, told.Latencies = map[string]int{}, []float64{}
	var kept []byte
	for _, each := range found {
		if each.failure != "" {
			told.Failures[each.failure]++
			continue
		}
		told.Latencies = append(told.Latencies, each.seconds)
		if each.reply != nil {
			kept = binary.LittleEndian.AppendUint64(kept, math.Float64bits(each.seconds))
			kept = binary.LittleEndian.AppendUint32(kept, uint32(len(each.reply)))
			kept = append(kept, each.reply...)
		}
	}
	if replies != "" {
		if err := os.WriteFile(replies, kept, 0o644); err != nil {
			log.Fatal(err)
		}
	}
	if err := json.NewEncoder(os.Stdout).Encode(told); err != nil {
		log.Fatal(err)
	}
}

func read(path string) [][]byte {
	data, err := os.ReadFile(path)
	if err != nil {
		log.Fatal(err)
	}
	var messages [][]byte
	for len(data) >= 4 {
		size := binary.LittleEndian.Uint32(data)
		messages = append(messages, data[4:4+size])
		data = data[4+size:]
	}
	return messages
}

// cpu is what this process has used, in seconds.
func cpu() float64 {
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		log.Fatal(err)
	}
	return float64(used.Utime.Nano()+used.Stime.Nano()) / 1e9
}
