// Ask over HTTP with nothing but the standard library: go run main.go http://HOST:PORT PICTURE [PROMPT] [TOP_K]
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"os"
	"time"
)

// A google.rpc.Status; its details are told apart by "@type".
type status struct {
	Code    int              `json:"code"`
	Message string           `json:"message"`
	Details []map[string]any `json:"details"`
}

type answer struct {
	Attribution struct {
		Items []struct {
			ID      string  `json:"id"` // 64 bits: text in JSON
			Rank    int     `json:"rank"`
			Share   float64 `json:"share"`
			Creator string  `json:"creator"`
			Caption string  `json:"caption"`
		} `json:"items"`
		DiffuseShare float64 `json:"diffuse_share"`
	} `json:"attribution"`
}

func main() {
	if err := ask(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func ask(arguments []string) error {
	picture, err := os.Open(arguments[1])
	if err != nil {
		return err
	}
	defer picture.Close()
	var body bytes.Buffer
	form := multipart.NewWriter(&body)
	part, err := form.CreateFormFile("image", "picture")
	if err != nil {
		return err
	}
	if _, err := io.Copy(part, picture); err != nil {
		return err
	}
	for at, name := range []string{"prompt", "top_k"} {
		if len(arguments) > at+2 && arguments[at+2] != "" {
			if err := form.WriteField(name, arguments[at+2]); err != nil {
				return err
			}
		}
	}
	if err := form.Close(); err != nil {
		return err
	}
	client := http.Client{Timeout: 10 * time.Second}
	reply, err := client.Post(arguments[0]+"/v1/attribute", form.FormDataContentType(), &body)
	if err != nil {
		return err
	}
	defer reply.Body.Close()
	if reply.StatusCode != http.StatusOK {
		return refusal(reply)
	}
	var found answer
	if err := json.NewDecoder(reply.Body).Decode(&found); err != nil {
		return err
	}
	for _, item := range found.Attribution.Items {
		fmt.Printf("%d %s %.1f%% %s %s\n", item.Rank, item.ID, 100*item.Share, item.Creator, item.Caption)
	}
	fmt.Printf("nobody in particular %.1f%%\n", 100*found.Attribution.DiffuseShare)
	return nil
}

func refusal(reply *http.Response) error {
	var told status
	if err := json.NewDecoder(reply.Body).Decode(&told); err != nil {
		return fmt.Errorf("the server answered with %s", reply.Status)
	}
	text := fmt.Sprintf("code %d: %s", told.Code, told.Message)
	for _, detail := range told.Details {
		switch detail["@type"] {
		case "type.googleapis.com/google.rpc.BadRequest":
			text += fmt.Sprintf("; BadRequest %v", detail["field_violations"])
		case "type.googleapis.com/google.rpc.ErrorInfo":
			text += fmt.Sprintf("; ErrorInfo %v %v", detail["reason"], detail["metadata"])
		case "type.googleapis.com/google.rpc.RetryInfo":
			text += fmt.Sprintf("; RetryInfo come back after %v", detail["retry_delay"])
		}
	}
	return fmt.Errorf("%s", text)
}
