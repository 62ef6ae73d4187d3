"""Which of gRPC's Python servers should carry the gateway? Embedding queries against one engine, four transports.

    benchmarks/grpc_servers.py --bundle out/demo/bundle --images out/corpus/images --json

All transports do the same around the same engine and batcher: parse, check, batch, search, build the reply. `gateway`
is the shipped server with all that it adds (admission, metrics, deadlines, logs). Rounds are interleaved. Queries a
second depend on the neighbours of a shared machine; CPU time of the server a query depends on them less.
"""

from __future__ import annotations

import asyncio
import json
import math
import statistics
import subprocess
import sys
import tempfile
from concurrent import futures
from contextlib import ExitStack
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

from common import arguments, emit
from serving import BUNDLES, IMAGES, Child, cpu_seconds, first_existing

from attributary.gateway.metrics import Metrics

METHOD = "attributary.v1.AttributionService"
TRANSPORTS = ("aio-asyncio", "aio-uvloop", "threads-8", "threads-40", "gateway")


class _Direct:
    """Stands in for an event loop: results are set where they are made."""

    @staticmethod
    def call_soon_threadsafe(callback: Any, *given: Any) -> None:
        callback(*given)


class _Silent(Metrics):
    def batch(self, queue: str, size: int) -> None:
        pass

    def dropped(self, reason: str) -> None:
        pass


def serve(transport: str, bundle: str) -> None:
    """Serve one transport until killed; print the port."""
    from attributary.attribution.open import open_engine

    engine = open_engine(Path(bundle))
    if transport == "gateway":
        from attributary.gateway.config import GatewayConfig
        from attributary.gateway.running import serve as serve_gateway

        serve_gateway(engine, GatewayConfig(port=0, metrics_port=0, log_level="warning"))
    elif transport.startswith("threads"):
        _serve_threads(engine, int(transport.split("-")[1]))
    elif transport == "aio-uvloop":
        import uvloop

        uvloop.run(_serve_aio(engine))
    else:
        asyncio.run(_serve_aio(engine))


def _job(engine: Any, data: bytes, future: Any) -> Any:
    from attributary.attribution.types import Options
    from attributary.gateway import translate
    from attributary.gateway.batching import Job
    from attributary.v1 import attribution_pb2 as pb

    request = translate.parse(pb.AttributeRequest, data)
    query = translate.to_query(request.query, engine.limits, "query")
    return Job(future, math.inf, perf_counter(), engine.prepare(query, Options()))


def _reply(answer: Any) -> bytes:
    from attributary.gateway.reply import attribution, embedded, timings

    return embedded(1, attribution(answer, "", "") + embedded(7, timings(answer.timings, 0.0)))


def _handlers(attribute: Any) -> Any:
    import grpc

    method: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(attribute)
    return grpc.method_handlers_generic_handler(METHOD, {"Attribute": method})


def _serve_threads(engine: Any, threads: int) -> None:
    import grpc

    from attributary.gateway.batching import Batcher

    loop: Any = _Direct()
    batcher = Batcher("search", engine.run, loop, _Silent(), max_batch=32)

    def attribute(data: bytes, _context: Any) -> bytes:
        future: futures.Future[Any] = futures.Future()
        batcher.put(_job(engine, data, future))
        return _reply(future.result())

    server = grpc.server(futures.ThreadPoolExecutor(threads))
    server.add_generic_rpc_handlers((_handlers(attribute),))
    _ready(server.add_insecure_port("127.0.0.1:0"))
    server.start()
    server.wait_for_termination()


async def _serve_aio(engine: Any) -> None:
    from grpc import aio

    from attributary.gateway.batching import Batcher

    loop = asyncio.get_running_loop()
    batcher = Batcher("search", engine.run, loop, _Silent(), max_batch=32)

    async def attribute(data: bytes, _context: Any) -> bytes:
        job = _job(engine, data, loop.create_future())
        batcher.put(job)
        return _reply(await job.future)

    server = aio.server()
    server.add_generic_rpc_handlers((_handlers(attribute),))
    _ready(server.add_insecure_port("127.0.0.1:0"))
    await server.start()
    await server.wait_for_termination()


def _ready(port: int) -> None:
    sys.stdout.write(json.dumps({"ready": True, "port": port}) + "\n")
    sys.stdout.flush()


def measure(options: Any) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return one row for each transport and concurrency, and facts about the bundle."""
    cells: dict[tuple[int, str], list[dict[str, float]]] = {}
    with ExitStack() as stack:
        inputs = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "inputs.npz"
        core = Child("core", str(options.bundle), str(inputs), "1")
        facts = core.ask(prepare=str(options.images), count=64, side=512)
        core.close()
        running = {}
        for transport in TRANSPORTS:
            process = subprocess.Popen(
                [sys.executable, __file__, "--serve", transport, str(options.bundle)],
                stdout=subprocess.PIPE,
                text=True,
            )
            stack.callback(process.kill)
            assert process.stdout
            port = json.loads(process.stdout.readline())["port"]
            load = Child("load", f"127.0.0.1:{port}", str(inputs))
            stack.callback(load.close)
            running[transport] = (process.pid, load)
        sleep(1)
        for number in range(options.rounds):
            for concurrency in options.concurrency:
                order = TRANSPORTS[number % len(TRANSPORTS) :] + TRANSPORTS[: number % len(TRANSPORTS)]
                for transport in order:
                    pid, load = running[transport]
                    before = cpu_seconds(pid)
                    cell = load.ask(kind="embedding", concurrency=concurrency, seconds=options.seconds)
                    cell["server_cpu_us"] = 1e6 * (cpu_seconds(pid) - before) / cell["queries"]
                    cells.setdefault((concurrency, transport), []).append(cell)
    shown = ("queries_per_s", "p50_ms", "p99_ms", "server_cpu_us", "batch")
    rows = [
        {
            "concurrency": concurrency,
            "transport": transport,
            **{name: round(statistics.median(cell[name] for cell in found), 3) for name in shown},
        }
        for (concurrency, transport), found in sorted(cells.items())
    ]
    return rows, facts


def main() -> None:
    """Measure and tell."""
    if sys.argv[1:2] == ["--serve"]:
        serve(*sys.argv[2:])
        return
    parser = arguments(__doc__ or "")
    parser.add_argument("--bundle", type=Path, default=first_existing(BUNDLES))
    parser.add_argument("--images", type=Path, default=first_existing(IMAGES))
    parser.add_argument("--concurrency", nargs="+", type=int, default=[1, 8, 32])
    parser.add_argument("--seconds", type=float, default=1.5)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    if options.bundle is None or options.images is None:
        parser.error("no bundle found; give --bundle and --images, or run `make demo` first")
    rows, facts = measure(options)
    config = {"rounds": options.rounds, "seconds": options.seconds, **facts}
    emit("grpc_servers", config, rows, [], options.json)


if __name__ == "__main__":
    main()
