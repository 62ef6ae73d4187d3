"""What does Triton cost? The embedded engine, and Triton with the Python index and with the C++ one, side by side.

    benchmarks/triton.py --bundle out/demo/bundle --images out/corpus/images --json

Four ways, every process alive all the time, cells taken in turn, medians over rounds:
  core        threads that call the embedded engine in their own process
  embedded    `attributary serve`, asked over gRPC
  python      `attributary serve --engine triton`, the index in Triton's Python backend
  faiss       the same, the index in the C++ backend (only if libtriton_faiss.so is built)
Two more tables ask Triton's index itself, without the gateway: a Python client, beside a search of the same index in
this process; and NVIDIA's perf_analyzer, a client in C++, if it can be had.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import perf_analyzer
from common import Aim, aim, arguments, emit, interleaved
from serving import BUNDLES, IMAGES, ROOT, Child, cpu_seconds, first_existing, median_of, served

from attributary.triton.materialize import Settings, materialize
from tritonserver.server import Ports, TritonServer

KINDS = ("image", "embedding")
_WARMUP = 5


def backend_library(named: Path | None) -> Path | None:
    """Return the C++ backend's library, None where it is not built."""
    return named or next(iter(sorted(ROOT.glob("build/**/faiss/libtriton_faiss.so"))), None)


@contextmanager
def triton(
    bundle: Path, scratch: Path, implementation: str, library: Path | None, instances: int
) -> Iterator[TritonServer]:
    """Run a tritonserver on a repository of its own."""
    repository = scratch / implementation
    settings = Settings(
        index_backend="faiss" if implementation == "faiss" else "python", encoder_instances=instances
    )
    materialize(bundle, repository, settings)
    backend = library if implementation == "faiss" else None
    with TritonServer(repository, ports=Ports(grpc=0, http=0, metrics=0), faiss_backend=backend) as server:
        yield server


def measure(options: argparse.Namespace) -> tuple[dict[str, list[dict[str, Any]]], dict[str, Any]]:
    """Return (tables, facts)."""
    library = backend_library(options.backend)
    implementations = ["python", *(["faiss"] if library else [])]
    cells: dict[tuple[str, int, str], list[dict[str, Any]]] = {}
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        inputs = scratch / "inputs.npz"
        core = Child("core", str(options.bundle), str(inputs), "1")
        stack.callback(core.close)
        facts = core.ask(prepare=str(options.images), count=options.count, side=options.side)
        facts["faiss_backend"] = library is not None
        servers = {
            name: stack.enter_context(
                triton(options.bundle, scratch, name, library, options.encoder_instances)
            )
            for name in implementations
        }
        addresses: dict[str, str] = {}
        ways: dict[str, tuple[Child, int]] = {"core": (core, core.pid)}
        for name in ("embedded", *implementations):
            flags = (
                []
                if name == "embedded"
                else ["--engine", "triton", "--triton-url", servers[name].grpc_address]
            )
            port, pid = stack.enter_context(served(options.bundle, flags))
            load = Child("load", f"127.0.0.1:{port}", str(inputs))
            stack.callback(load.close)
            ways[name] = (load, pid)
            addresses[name] = f"127.0.0.1:{port}"
        # What shared memory is worth: the last way again without it, for lone pictures only.
        flags = ["--engine", "triton", "--triton-url", servers[implementations[-1]].grpc_address]
        port, _ = stack.enter_context(served(options.bundle, [*flags, "--triton-shared-memory", "off"]))
        addresses[f"{implementations[-1]}, no shared memory"] = f"127.0.0.1:{port}"
        for number in range(options.rounds):
            for kind in options.kinds:
                for concurrency in options.concurrency:
                    order = list(ways)
                    for name in order[number % len(order) :] + order[: number % len(order)]:
                        child, pid = ways[name]
                        before = cpu_seconds(pid)
                        found = child.ask(kind=kind, concurrency=concurrency, seconds=options.seconds)
                        found["cpu_ms"] = 1e3 * (cpu_seconds(pid) - before) / found["queries"]
                        cells.setdefault((kind, concurrency, name), []).append(found)
        lone = one_image(addresses, inputs, options.image_rounds)
        direct = index_alone(options.bundle, servers, inputs, options.index_rounds)
        loaded = index_load(servers, inputs, options.rounds, options.seconds)
    shown = ("queries_per_s", "p50_ms", "p99_ms", "batch", "cpu_ms", "queue", "encode", "search", "rescore")
    rows = [
        {"kind": kind, "concurrency": concurrency, "way": way, **{name: cell[name] for name in shown}}
        for (kind, concurrency, way), found in cells.items()
        for cell in [median_of(found)]
    ]
    return {"serving": rows, "one image": lone, "index alone": direct, "index, perf_analyzer": loaded}, facts


def one_image(addresses: dict[str, str], inputs: Path, rounds: int) -> list[dict[str, Any]]:
    """Return the latency of a lone image query through each gateway, asked in turn with one picture a round.

    All meet the same neighbours: the median of the rounds' own differences, and p10, tell more than p50 on a machine
    that others use.
    """
    from attributary.client import Client

    with np.load(inputs, allow_pickle=True) as archive:
        pictures = [bytes(picture) for picture in archive["images"]]
    took: dict[str, list[float]] = {name: [] for name in addresses}
    with ExitStack() as stack:
        clients = [(name, stack.enter_context(Client(address))) for name, address in addresses.items()]
        for number in range(-_WARMUP, rounds):
            picture = pictures[number % len(pictures)]
            # Nobody is always first, or always after the same neighbour's caches.
            for name, client in clients[number % len(clients) :] + clients[: number % len(clients)]:
                started = perf_counter()
                client.attribute(picture)
                if number >= 0:
                    took[name].append((perf_counter() - started) * 1e3)
    base = np.array(took["embedded"])
    return [
        {
            "way": name,
            "p50_ms": float(np.median(each)),
            "p10_ms": float(np.percentile(each, 10)),
            "added_ms": float(np.median(np.array(each) - base)),
        }
        for name, each in took.items()
    ]


def tensors(vectors: Any) -> dict[str, Any]:
    """Return the index model's inputs for a batch of embeddings."""
    return {"embedding": np.ascontiguousarray(vectors, np.float32)}


def requests(vectors: Any) -> list[Any]:
    """Return the same as tritonclient's inputs."""
    import tritonclient.grpc as client

    from attributary.triton.client import TYPES

    made = []
    for name, array in tensors(vectors).items():
        tensor = client.InferInput(name, list(array.shape), TYPES[name])
        tensor.set_data_from_numpy(array)
        made.append(tensor)
    return made


def index_alone(
    bundle: Path, servers: dict[str, TritonServer], inputs: Path, rounds: int
) -> list[dict[str, Any]]:
    """Return p50 of one request to the index, and of the same work in this process."""
    import tritonclient.grpc as client

    from attributary.attribution.open import open_engine
    from attributary.attribution.types import Query

    engine = open_engine(bundle, verify=False)
    with np.load(inputs, allow_pickle=True) as archive:
        vectors = np.asarray(archive["embeddings"], np.float32)
    found = []
    clients = {name: client.InferenceServerClient(server.grpc_address) for name, server in servers.items()}
    for batch in (1, 32):
        part = vectors[np.arange(batch) % len(vectors)]
        prepared = [engine.prepare(Query(embedding=vector)) for vector in part]
        asked = requests(part)
        calls: dict[str, Any] = {"in process": lambda prepared=prepared: engine.run(prepared)}
        for name, connection in clients.items():
            calls[name] = lambda connection=connection, asked=asked: connection.infer("index", asked)
        median = interleaved(calls, rounds=rounds, warmup=10)
        found += [{"batch": batch, "way": way, "p50_ms": seconds * 1e3} for way, seconds in median.items()]
    for connection in clients.values():
        connection.close()
    return found


def index_load(
    servers: dict[str, TritonServer], inputs: Path, rounds: int, seconds: float
) -> list[dict[str, Any]]:
    """Return perf_analyzer's rates and latencies for each index, in turn; medians over rounds."""
    try:
        command = perf_analyzer.find()
    except perf_analyzer.CannotRunError as error:
        return [{"skipped": str(error)}]
    with np.load(inputs, allow_pickle=True) as archive:
        asked = tensors(np.asarray(archive["embeddings"], np.float32))
    cells: dict[tuple[int, str], list[dict[str, float]]] = {}
    for _ in range(rounds):
        for concurrency in (1, 8, 32):
            for name, server in servers.items():
                found = perf_analyzer.measure(
                    command, server.grpc_address, "index", asked, concurrency=concurrency, seconds=seconds
                )
                cells.setdefault((concurrency, name), []).append(found)
    return [
        {"concurrency": concurrency, "way": name, **median_of(found)}
        for (concurrency, name), found in cells.items()
    ]


def aims_of(tables: dict[str, list[dict[str, Any]]]) -> list[Aim]:
    """Hold the figures against what was asked for."""
    rows = {row["way"]: row for row in tables["one image"]}
    lone = {way: row["p50_ms"] for way, row in rows.items()}
    base = lone["embedded"]
    found: list[Aim] = []
    for way in ("python", "faiss"):
        if way in lone:
            added, limit = lone[way] - base, max(2.0, 0.05 * base)
            note = (
                f"{lone[way]:.2f} ms against {base:.2f} ms through the embedded gateway, in turn; "
                f"median of differences {rows[way]['added_ms']:.2f} ms, of the least disturbed tenth "
                f"{rows[way]['p10_ms'] - rows['embedded']['p10_ms']:.2f} ms"
            )
            name = f"an image through Triton ({way} index), added p50"
            found.append(aim(name, added, limit, "ms", added <= limit, note))
    load = [row for row in tables["index, perf_analyzer"] if "way" in row]
    rates = {(row["concurrency"], row["way"]): row["queries_per_s"] for row in load}
    for at in (8, 32):
        if (at, "faiss") in rates:
            ratio = rates[at, "faiss"] / rates[at, "python"]
            note = f"{rates[at, 'faiss']:.0f} and {rates[at, 'python']:.0f} per second, perf_analyzer"
            name = f"C++ index's throughput over the Python one's, concurrency {at}"
            found.append(aim(name, ratio, 2.0, "x", ratio >= 2, note))
    return found


def main(arguments_: Sequence[str] | None = None) -> None:
    """Measure and tell."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--bundle", type=Path, default=first_existing(BUNDLES))
    parser.add_argument("--images", type=Path, default=first_existing(IMAGES), help="folder of pictures")
    parser.add_argument("--backend", type=Path, help="libtriton_faiss.so; default: the one below build/")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--concurrency", nargs="+", type=int, default=[1, 8, 32])
    parser.add_argument("--seconds", type=float, default=1.5, help="of one cell in one round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--image-rounds", type=int, default=120)
    parser.add_argument("--index-rounds", type=int, default=300)
    parser.add_argument("--encoder-instances", type=int, default=0, help="0: one a core")
    parser.add_argument("--count", type=int, default=64, help="different pictures asked about")
    parser.add_argument("--side", type=int, default=512, help="pictures are sent as JPEGs of this side")
    options = parser.parse_args(arguments_)
    if options.bundle is None or options.images is None:
        parser.error("no bundle found; give --bundle and --images, or run `make demo` first")
    tables, facts = measure(options)
    left_out = {"json", "save", "bundle", "images", "backend"}
    config = {**{name: value for name, value in vars(options).items() if name not in left_out}, **facts}
    emit("triton", config, tables, aims_of(tables), options.json)


if __name__ == "__main__":
    main()
