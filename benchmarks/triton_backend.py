"""What does the C++ backend cost over its own search, and what does it gain over the Python model?

    benchmarks/triton_backend.py --bundle out/demo/bundle [--build build/triton] [--json] [--save]

The same FAISS build in process (`faiss_inprocess`), in a Triton inside the client's process (its C API: everything but
gRPC), and behind a tritonserver, asked by NVIDIA's perf_analyzer (a C++ client) with one embedding a request; the
Python model behind a tritonserver too, on the wheel's FAISS. Everything in turn, medians over rounds. The backend must
be built (`make triton-backend`). The index model only: no encoder, no ensemble.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import numpy as np
import perf_analyzer
from common import Aim, aim, arguments, emit

from attributary.bundle.bundle import Bundle
from attributary.triton import templates
from attributary.triton.materialize import Settings, materialize
from tritonserver.server import Ports, TritonServer

Backend = Literal["faiss", "python"]
ROOT = Path(__file__).resolve().parent.parent
BACKENDS: dict[str, Backend] = {"C++": "faiss", "Python": "python"}
IN_PROCESS = "in process, C++"
NO_NETWORK = "Triton in the client's process, C++ index"


def unit_queries(bundle: Bundle, count: int) -> np.ndarray:
    """Stored vectors with a little noise, float32 [count, D], unit rows."""
    rng = np.random.default_rng(0)
    rows = np.asarray(bundle.vectors[np.sort(rng.choice(len(bundle.vectors), count))], np.float32)
    rows = rows[rng.permutation(count)]
    rows += rng.standard_normal(rows.shape).astype(np.float32) * 0.3 / np.sqrt(rows.shape[1])
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


def index_only(bundle: Path, folder: Path, backend: Backend) -> str:
    """Write a repository with the bundle's index model alone and the alias that the launcher wants; return its name."""
    whole = folder / "whole"
    bundle_id = materialize(bundle, whole, Settings(index_backend=backend))
    name = f"index_{bundle_id}"
    shutil.move(whole / name, folder / "repository" / name)
    shutil.rmtree(whole)
    alias = folder / "repository" / "attribution"
    (alias / "1").mkdir(parents=True)
    config = (folder / "repository" / name / "config.pbtxt").read_text()
    (alias / "config.pbtxt").write_text(templates.alias(config, "attribution", name))
    return name


def in_process(build: Path, folder: Path, name: str, queries: np.ndarray, batch: int) -> dict[str, Any]:
    """The C++ core without a server; microseconds."""
    model = folder / "repository" / name
    parameters = templates.parameters_of(model / "config.pbtxt")
    config, raw = folder / "config.json", folder / "queries.f32"
    config.write_text(
        json.dumps({"parameters": {key: {"string_value": text} for key, text in parameters.items()}})
    )
    raw.write_bytes(queries.astype("<f4").tobytes())
    program = build / "kernels" / "triton_faiss" / "faiss_inprocess"
    command = [program, config, raw, batch, 3]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout))


def write_requests(path: Path, queries: np.ndarray) -> None:
    """perf_analyzer's input file."""
    path.write_text(json.dumps({"data": [{"embedding": row.tolist()} for row in queries]}))


def medians(rows: list[dict[str, float]]) -> dict[str, float]:
    """Of every figure over the rounds."""
    return {key: round(statistics.median(row[key] for row in rows), 4) for key in rows[0]}


def main() -> None:
    """Measure and print."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--bundle", type=Path, default=Path("out/demo/bundle"))
    parser.add_argument(
        "--build", type=Path, default=ROOT / "build" / "triton", help="build folder of the backend"
    )
    parser.add_argument("--faiss-build", default="the distribution's", help="said beside the figures")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.5)
    given = parser.parse_args()
    bundle = Bundle.open(given.bundle)
    queries = unit_queries(bundle, 200)
    rows = measure(given, queries)
    config = {
        "faiss_build": given.faiss_build,
        "bundle": bundle.manifest.bundle_id, "items": len(bundle.items), "index": bundle.manifest.index.factory,
        "nprobe": bundle.manifest.index.nprobe, "candidates": bundle.manifest.index.candidates,
        "rounds": given.rounds,
    }  # fmt: skip
    emit("triton_backend", config, rows, aims_of(rows), given.json)


def measure(given: argparse.Namespace, queries: np.ndarray) -> list[dict[str, Any]]:
    """Return a row for each way and concurrency: medians over rounds, and the least disturbed p50."""
    tool = perf_analyzer.find()
    cells: dict[tuple[str, int], list[dict[str, Any]]] = {}
    with ExitStack() as stack:
        folders, names, commands = {}, {}, {}
        for label, backend in BACKENDS.items():
            folders[label] = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="attributary-")))
            names[label] = index_only(given.bundle, folders[label], backend)
            library = given.build / "backends" / "faiss" / "libtriton_faiss.so"
            server = stack.enter_context(
                TritonServer(
                    folders[label] / "repository",
                    ports=Ports(grpc=0, http=0, metrics=0),
                    faiss_backend=library if backend == "faiss" else None,
                )
            )
            commands[f"Triton, {label} index"] = (label, [*tool, "-u", server.grpc_address, "-i", "grpc"])
        try:
            inside = perf_analyzer.without_network(
                tool, folders["C++"] / "repository", given.build / "backends", folders["C++"] / "server"
            )
            commands[NO_NETWORK] = ("C++", inside)
        except perf_analyzer.CannotRunError as error:
            print(f"without the Triton in process: {error}", file=sys.stderr)
        data = folders["C++"] / "requests.json"
        write_requests(data, queries)
        for _ in range(given.rounds):
            for concurrency in (1, 8, 32):
                for way, (label, command) in commands.items():
                    run = perf_analyzer.report_of(
                        command, names[label], data, concurrency=concurrency, seconds=given.seconds
                    )
                    cells.setdefault((way, concurrency), []).append(run)
            for way, batch in ((IN_PROCESS, 1), (f"{IN_PROCESS}, batches of 32", 32)):
                run = in_process(given.build, folders["C++"], names["C++"], queries, batch)
                kept = {key[:-3] + "_ms": run[key] / 1e3 for key in run if key.endswith("_us")}
                kept["queries_per_s"] = 1e3 * batch / kept["p50_ms"]
                cells.setdefault((way, 1), []).append(kept)
    return [
        {
            "way": way,
            "concurrency": concurrency,
            **medians(runs),
            "least_p50_ms": round(min(run["p50_ms"] for run in runs), 4),
        }
        for (way, concurrency), runs in sorted(cells.items())
    ]


def aims_of(rows: list[dict[str, Any]]) -> list[Aim]:
    """Hold the figures against what was asked for."""
    told = {(row["way"], row["concurrency"]): row for row in rows}
    alone = told[IN_PROCESS, 1]
    found = []
    for way in (NO_NETWORK, "Triton, C++ index"):
        if (way, 1) not in told:
            continue
        row = told[way, 1]
        added = row["p50_ms"] - alone["p50_ms"]
        least = row["least_p50_ms"] - alone["least_p50_ms"]
        name = f"added p50 over the same search in process: {way}"
        note = f"least disturbed rounds: {least:.3f} ms"
        found.append(aim(name, added, 0.25, "ms", added <= 0.25, note))
    for at in (1, 8, 32):
        ours, theirs = (told[f"Triton, {label} index", at]["queries_per_s"] for label in BACKENDS)
        note = f"{ours:.0f} and {theirs:.0f} a second"
        found.append(
            aim(
                f"throughput over the Python model, concurrency {at}",
                ours / theirs,
                2,
                "x",
                ours >= 2 * theirs,
                note,
            )
        )
    return found


if __name__ == "__main__":
    main()
