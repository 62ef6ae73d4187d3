"""What does the C++ backend cost over its own search, and what does it gain over its Python twin?

python benchmarks/triton_backend.py --bundle out/demo/bundle --perf-analyzer "perf_analyzer" [--json] [--save]

The same FAISS build in process (`faiss_inprocess`) and behind tritonserver, asked by NVIDIA's perf_analyzer (a C++
client) with one embedding a request; the Python twin likewise, on the wheel's FAISS. Everything in turn, medians over
rounds. The backend must be built (`make triton-backend`). --perf-analyzer takes a whole command, for machines where
the tool runs through libraries unpacked aside. The index model only: no encoder, no ensemble.
"""

from __future__ import annotations

import csv
import json
import re
import shlex
import shutil
import statistics
import subprocess
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from common import aim, arguments, emit

from attributary.bundle.bundle import Bundle
from attributary.triton import templates
from attributary.triton.materialize import Settings, materialize
from attributary.triton.server import Ports, TritonServer

ROOT = Path(__file__).resolve().parent.parent
TOP_K = 10
BACKENDS = {"C++": "faiss", "Python": "python"}


def unit_queries(bundle: Bundle, count: int) -> np.ndarray:
    """Stored vectors with a little noise, float32 [count, D], unit rows."""
    rng = np.random.default_rng(0)
    rows = np.asarray(bundle.vectors[np.sort(rng.choice(len(bundle.vectors), count))], np.float32)
    rows = rows[rng.permutation(count)]
    rows += rng.standard_normal(rows.shape).astype(np.float32) * 0.3 / np.sqrt(rows.shape[1])
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def index_only(bundle: Path, folder: Path, backend: str) -> str:
    """Write a repository with the bundle's index model alone and the door that the launcher wants; return its name."""
    whole = folder / "whole"
    bundle_id = materialize(bundle, whole, Settings(index_backend=backend))
    name = f"index_{bundle_id}"
    shutil.move(whole / name, folder / "repository" / name)
    shutil.rmtree(whole)
    door = folder / "repository" / "attribution"
    (door / "1").mkdir(parents=True)
    config = (folder / "repository" / name / "config.pbtxt").read_text()
    (door / "config.pbtxt").write_text(templates.door(config, "attribution", name))
    return name


def in_process(build: Path, folder: Path, name: str, queries: np.ndarray, batch: int) -> dict[str, Any]:
    """The C++ core without a server; microseconds."""
    model = folder / "repository" / name
    entries = re.findall(
        r'parameters \{ key: "(\w+)" value \{ string_value: "([^"]*)" \} \}',
        (model / "config.pbtxt").read_text(),
    )
    config, raw = folder / "config.json", folder / "queries.f32"
    config.write_text(json.dumps({"parameters": {key: {"string_value": text} for key, text in entries}}))
    raw.write_bytes(queries.astype("<f4").tobytes())
    program = build / "kernels" / "triton_faiss" / "faiss_inprocess"
    command = [program, config, model / "1" / "rows.npy", raw, TOP_K, batch, 3]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout))


def perf_analyzer(
    tool: list[str], address: str, name: str, data: Path, concurrency: int, seconds: float
) -> dict[str, float]:
    """One run of perf_analyzer: p50 and p99 in microseconds, inferences a second, Triton's own parts."""
    table = data.with_suffix(".csv")
    options = f"-m {name} -u {address} -i grpc -b 1 --concurrency-range {concurrency} --input-data {data} -f {table}"
    steady = f"--measurement-interval {int(seconds * 1000)} --stability-percentage 900 --max-trials 4 --percentile 50"
    done = subprocess.run(
        [*tool, *shlex.split(f"{options} {steady}")], capture_output=True, text=True, timeout=300, check=False
    )
    if not table.exists():
        raise RuntimeError(f"perf_analyzer failed: {done.stderr[-600:]}{done.stdout[-600:]}")
    with table.open() as file:
        row = next(iter(csv.DictReader(file)))
    return {
        "p50_us": float(row["p50 latency"]),
        "p99_us": float(row["p99 latency"]),
        "per_s": float(row["Inferences/Second"]),
        "queue_us": float(row["Server Queue"]),
        "compute_us": float(row["Server Compute Infer"]),
    }


def write_requests(path: Path, queries: np.ndarray) -> None:
    """perf_analyzer's input file."""
    rows = [
        {"embedding": row.tolist(), "has_prompt": [0], "top_k": [TOP_K], "top_creators": [TOP_K]}
        for row in queries
    ]
    path.write_text(json.dumps({"data": rows}))


def medians(rows: list[dict[str, float]]) -> dict[str, float]:
    """Of every figure over the rounds."""
    return {key: round(statistics.median(row[key] for row in rows), 1) for key in rows[0]}


def main() -> None:
    """Measure and print."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--bundle", type=Path, default=Path("out/demo/bundle"))
    parser.add_argument("--perf-analyzer", default="perf_analyzer")
    parser.add_argument(
        "--build", type=Path, default=ROOT / "build" / "triton", help="build folder of the backend"
    )
    parser.add_argument("--faiss-build", default="the distribution's", help="said beside the figures")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.5)
    given = parser.parse_args()
    tool = shlex.split(given.perf_analyzer)
    bundle = Bundle.open(given.bundle)
    queries = unit_queries(bundle, 200)
    with ExitStack() as stack:
        folders, names, servers = {}, {}, {}
        for label, backend in BACKENDS.items():
            folders[label] = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="attributary-")))
            names[label] = index_only(given.bundle, folders[label], backend)
            servers[label] = stack.enter_context(
                TritonServer(
                    folders[label] / "repository",
                    ports=Ports(grpc=0, http=0, metrics=0),
                    faiss_backend=given.build / "backends" / "faiss" / "libtriton_faiss.so"
                    if backend == "faiss"
                    else None,
                )
            )
        data = folders["C++"] / "requests.json"
        write_requests(data, queries)
        alone: list[dict[str, float]] = []
        served: dict[tuple[str, int], list[dict[str, float]]] = {}
        for _ in range(given.rounds):
            for concurrency in (1, 8, 32):
                for label in BACKENDS:
                    run = perf_analyzer(
                        tool, servers[label].grpc_address, names[label], data, concurrency, given.seconds
                    )
                    served.setdefault((label, concurrency), []).append(run)
            alone.append(in_process(given.build, folders["C++"], names["C++"], queries, 1))
        batch = in_process(given.build, folders["C++"], names["C++"], queries, 32)
    inside = medians(alone)
    rows = [{"path": "in process, C++", "concurrency": 1, **inside}]
    rows += [{"path": f"in process, C++, batches of {batch['batch']}", "concurrency": 1, **batch}]
    rows += [
        {"path": f"Triton, {label} index", "concurrency": concurrency, **medians(runs)}
        for (label, concurrency), runs in sorted(served.items())
    ]
    added = (medians(served["C++", 1])["p50_us"] - inside["p50_us"]) / 1e3
    least = (min(run["p50_us"] for run in served["C++", 1]) - min(run["p50_us"] for run in alone)) / 1e3
    ratios = {
        concurrency: medians(served["C++", concurrency])["per_s"]
        / medians(served["Python", concurrency])["per_s"]
        for concurrency in (1, 8, 32)
    }
    config = {
        "faiss_build": given.faiss_build,
        "bundle": bundle.manifest.bundle_id, "items": len(bundle.items), "index": bundle.manifest.index.factory,
        "nprobe": bundle.manifest.index.nprobe, "candidates": bundle.manifest.index.candidates,
        "rounds": given.rounds, "top_k": TOP_K,
    }  # fmt: skip
    aims = [
        aim(
            "C++ backend's p50 over the same search in process",
            added,
            0.25,
            "ms",
            added <= 0.25,
            f"least disturbed rounds: {least:.3f} ms",
        ),
        *(
            aim(f"throughput over the Python twin, concurrency {at}", ratio, 2, "x", ratio >= 2)
            for at, ratio in ratios.items()
        ),
    ]
    emit("triton_backend", config, rows, aims, given.json)


if __name__ == "__main__":
    main()
