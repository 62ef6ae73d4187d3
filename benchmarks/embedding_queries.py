"""Embedding queries at saturation and in an open loop, beside an empty echo of the same sizes; a client in Go.

    benchmarks/embedding_queries.py --bundle out/demo/bundle --json

One server and one echo (grpc.aio on uvloop, the same handler kind, nothing behind it) stay alive and take turns. Closed
loop: each caller asks again when it has its answer. Open loop: Poisson times at parts of the rate that the closed loop
reached, each latency from the time at which the query was meant to be sent. Queries are items of the bundle with noise,
every one another. `--processes 1,2` measures a gateway of each in turns, the second over as many connections as
callers: the kernel gives each connection to a process. What these connections cost is told by one process over as
many. `cpu_us` is the CPU time of the server's processes a query; it
depends least on a machine's neighbours.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from common import Aim, aim, arguments, emit
from load_client import LoadClient, build
from serving import BUNDLES, cpu_seconds, first_existing, served

QUERIES = 4_096
NOISE = 0.02  # a value; the vectors are of unit length
PARTS = (0.3, 0.6, 0.9)
GATEWAY = "gateway"  # of one process
SPREAD = "gateway, a connection a caller"


async def echo(reply: bytes) -> None:
    """Answer every call with the same bytes, for ever."""
    import grpc
    from grpc import aio

    async def answer(_requests: Any, context: Any) -> bytes:
        await context.read()
        return reply

    server = aio.server()
    handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
        "Attribute": grpc.stream_unary_rpc_method_handler(answer)
    }
    name = "attributary.v1.AttributionService"
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, handlers),))
    sys.stdout.write(json.dumps({"port": server.add_insecure_port("127.0.0.1:0")}) + "\n")
    sys.stdout.flush()
    await server.start()
    await server.wait_for_termination()


def requests_of(bundle: Path) -> list[bytes]:
    """Return serialised requests with timings."""
    from attributary.client import query
    from attributary.client.messages import attribute_request

    vectors = np.load(bundle / "vectors.npy", mmap_mode="r")
    rng = np.random.default_rng(0)
    found = vectors[rng.integers(0, len(vectors), QUERIES)].astype(np.float32)
    found += rng.normal(0, NOISE, found.shape).astype(np.float32)
    return [attribute_request(query(embedding=row), {"timings": True}).SerializeToString() for row in found]


def cell(client: LoadClient, pid: int, **flags: float) -> dict[str, float]:
    """Return the figures of one cell."""
    from attributary.v1 import attribution_pb2 as pb

    before = cpu_seconds(pid)
    told = client.run(warm=0, **flags)
    ms = np.asarray(told["latencies"]) * 1e3
    replies = [pb.AttributeResponse.FromString(data).attribution for _, data in told["replies"]]
    return {
        "queries_per_s": len(ms) / told["elapsed"],
        **{f"p{level}_ms": float(np.percentile(ms, level)) for level in (50, 99)},
        "p999_ms": float(np.percentile(ms, 99.9)),
        "cpu_us": 1e6 * (cpu_seconds(pid) - before) / len(ms),
        "client_cpu_us": 1e6 * told["cpu"] / len(ms),
        "batch": float(np.mean([reply.timings.batch_size for reply in replies])),
    }


class Server(NamedTuple):
    """What is measured: its name in the tables, a client of it, and the process that has the others."""

    name: str
    client: LoadClient
    pid: int


def measure(options: argparse.Namespace, binary: Path, folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of both loops."""
    requests = requests_of(options.bundle)
    closed: dict[tuple[int, str], list[dict[str, float]]] = {}
    opened: dict[float, list[dict[str, float]]] = {}
    with ExitStack() as stack:
        servers = []
        for count in options.processes:
            flags = ["--encoder-threads", "1", "--processes", str(count)]
            port, pid = stack.enter_context(served(options.bundle, flags))
            client = LoadClient(binary, folder, f"127.0.0.1:{port}", requests)
            servers.append(Server(GATEWAY if count == 1 else f"{count} processes", client, pid))
            if count == 1:
                servers.append(Server(SPREAD, client, pid))
        first = servers[0]
        for server in servers:
            server.client.run(concurrency=8, seconds=options.seconds)
        (folder / "reply").write_bytes(first.client.run(concurrency=1, seconds=0.2)["replies"][0][1])
        process = subprocess.Popen(
            [sys.executable, __file__, "--echo", str(folder / "reply")], stdout=subprocess.PIPE, text=True
        )
        stack.callback(process.wait)
        stack.callback(process.terminate)
        assert process.stdout
        port = json.loads(process.stdout.readline())["port"]
        servers.append(Server("echo", LoadClient(binary, folder, f"127.0.0.1:{port}", requests), process.pid))
        for number in range(options.rounds):
            for concurrency in options.concurrency:
                for server in servers if number % 2 == 0 else servers[::-1]:
                    # The kernel shares connections out; one process has no use for several.
                    connections = 1 if server.name in (GATEWAY, "echo") else concurrency
                    found = cell(
                        server.client,
                        server.pid,
                        concurrency=concurrency,
                        connections=connections,
                        seconds=options.seconds,
                    )
                    closed.setdefault((concurrency, server.name), []).append(found)
        best = max(
            median(cells)["queries_per_s"] for (_, name), cells in closed.items() if name == first.name
        )
        for _ in range(options.rounds):
            for part in PARTS:
                rate = round(part * best)
                found = cell(first.client, first.pid, rate=rate, seconds=options.seconds)
                opened.setdefault(rate, []).append(found)
    return {
        "closed loop": [
            {"concurrency": concurrency, "server": name, **median(cells)}
            for (concurrency, name), cells in closed.items()
        ],
        "open loop": [{"rate_per_s": rate, **median(cells)} for rate, cells in opened.items()],
    }


def median(cells: list[dict[str, float]]) -> dict[str, float]:
    """Return the median of every figure over the rounds, and the spread of the CPU time."""
    found = {name: round(statistics.median(each[name] for each in cells), 3) for name in cells[0]}
    spread = sorted(each["cpu_us"] for each in cells)
    return {**found, "least_cpu_us": round(spread[0], 1), "most_cpu_us": round(spread[-1], 1)}


def aims_of(rows: list[dict[str, Any]]) -> list[Aim]:
    """Hold the figures against what was asked for."""
    by_cell = {(row["concurrency"], row["server"]): row for row in rows}
    if not any(row["server"] == GATEWAY for row in rows):
        return []
    rates = {
        name: max(row["queries_per_s"] for row in rows if row["server"] == name)
        for name in dict.fromkeys(row["server"] for row in rows)
    }
    rate = rates[GATEWAY]
    found = [aim("embedding queries, unary, one process", rate, 2_000, "1/s", rate >= 2_000)]
    for concurrency in sorted({row["concurrency"] for row in rows}):
        ours, empty = (by_cell[concurrency, name]["cpu_us"] for name in (GATEWAY, "echo"))
        name = f"CPU a call over the echo's, concurrency {concurrency}"
        found.append(aim(name, ours / empty, 2, "x", ours <= 2 * empty, f"{ours:.0f} and {empty:.0f} us"))
    two = rates.get("2 processes")
    note = "" if two is None else f"{two:.0f} of {rate:.0f} per second; {alone(by_cell)}"
    if two is not None and SPREAD in rates:
        note += f"; over as many connections as callers one process gives {rates[SPREAD]:.0f} per second"
    factor = None if two is None else two / rate
    return [*found, aim("rate of two processes over one", factor, 1.7, "x", (factor or 0) >= 1.7, note)]


def alone(by_cell: dict[tuple[int, str], dict[str, Any]]) -> str:
    """Say what the client costs, and what servers could do on cores of their own, by their CPU time a call."""
    most = max(concurrency for concurrency, _ in by_cell)
    one, two = by_cell[most, GATEWAY], by_cell[most, "2 processes"]
    return (
        f"the client takes {two['client_cpu_us']:.0f} us of the same cores beside {two['cpu_us']:.0f} a call; "
        f"by CPU time alone one process gives {1e6 / one['cpu_us']:.0f} on a core of its own, "
        f"two on two {2e6 / two['cpu_us']:.0f}"
    )


def counts(text: str) -> list[int]:
    """Read "1,2"."""
    return [int(part) for part in text.split(",")]


def main() -> None:
    """Measure and tell."""
    if sys.argv[1:2] == ["--echo"]:
        import uvloop

        uvloop.run(echo(Path(sys.argv[2]).read_bytes()))
        return
    parser = arguments(__doc__ or "")
    parser.add_argument("--bundle", type=Path, default=first_existing(BUNDLES))
    parser.add_argument("--concurrency", nargs="+", type=int, default=[1, 8, 32])
    parser.add_argument(
        "--processes", type=counts, default=[1, 2], help="of the gateways, with commas between"
    )
    parser.add_argument("--seconds", type=float, default=2.0, help="of one cell in one round")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    if options.bundle is None:
        parser.error("no bundle found; give --bundle, or run `make demo` first")
    with tempfile.TemporaryDirectory() as folder:
        binary = build(Path(folder))
        if binary is None:
            raise SystemExit("needs Go and its gRPC: apt-get install golang-go golang-google-grpc-dev")
        results = measure(options, binary, Path(folder))
    config = {name: value for name, value in vars(options).items() if name not in {"json", "save", "bundle"}}
    emit(
        "embedding_queries",
        {**config, "queries": QUERIES},
        results,
        aims_of(results["closed loop"]),
        options.json,
    )


if __name__ == "__main__":
    main()
