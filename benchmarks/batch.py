"""Scoring logs: `attributary score` against the engine alone on the same cores, and its memory at ten times the rows.

python benchmarks/batch.py --bundle out/demo/bundle --images out/corpus [--runner ray] [--json] [--save]

Throughput: one process, one open engine; both take turns. The engine alone prepares and runs the same pictures in the
same batches on as many threads, from memory. `score` is a whole run: planning with hashes, reading Parquet, writing and
syncing shards, totals. Memory and runners: a fresh process each, peak resident memory, log sizes and runners in turn.
Without options 27,000 pictures are scored: five minutes at the 100 a second of two cores.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from common import aim, arguments, emit
from serving_child import encoded

from attributary.attribution.open import open_engine
from attributary.attribution.types import Query
from attributary.batch.job import score
from attributary.batch.plan import make_plan
from attributary.batch.scoring import EngineScorer, engine_limits
from attributary.batch.settings import Settings
from attributary.bundle.manifest import Manifest
from attributary.machine import cores

CHILD = Path(__file__).with_name("batch_child.py")
DISTINCT = 256
PROMPTS = (
    "a red apple on a table",
    "an icon of a house",
    "",
    "a fox that jumps over a river at night, ink on paper",
)


def write_log(path: Path, pictures: Sequence[bytes], rows: int) -> None:
    """Write a Parquet log of `rows` generations, in row groups of 1,000."""
    text = pa.string()
    fields: list[tuple[str, pa.DataType]] = [("generation_id", text), ("model_id", text)]
    schema = pa.schema([*fields, ("image", pa.binary()), ("prompt", text)])
    with pq.ParquetWriter(path, schema, compression="none", use_dictionary=False) as writer:
        for start in range(0, rows, 1000):
            numbers = range(start, min(start + 1000, rows))
            columns: dict[str, list[str] | list[bytes]] = {
                "generation_id": [f"g-{number:08d}" for number in numbers],
                "model_id": ["painter-1"] * len(numbers),
                "image": [pictures[number % len(pictures)] for number in numbers],
                "prompt": [PROMPTS[number % len(PROMPTS)] for number in numbers],
            }
            writer.write_table(pa.table(columns, schema))


def throughput(
    bundle: Path, log: Path, pictures: Sequence[bytes], rows: int, rounds: int, workers: int
) -> list[dict[str, Any]]:
    """Return a row for the engine alone and one for `score`; medians of rounds, and of the ratio within a round."""
    settings = Settings()
    limits = engine_limits(settings)
    engine = open_engine(bundle, limits=limits, verify=False)
    scorer = EngineScorer(engine, settings)
    options = scorer.options
    size = settings.batch_size

    def one_batch(start: int) -> None:
        numbers = range(start, min(start + size, rows))
        queries = [
            Query(image=pictures[n % len(pictures)], prompt=PROMPTS[n % len(PROMPTS)]) for n in numbers
        ]
        engine.run([engine.prepare(query, options) for query in queries])

    def alone() -> float:
        began = time.perf_counter()
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(one_batch, range(0, rows, size)))
        return time.perf_counter() - began

    def whole() -> float:
        out = Path(tempfile.mkdtemp(dir=log.parent))
        began = time.perf_counter()
        score(make_plan([log], settings), scorer, out / "run", workers=workers)
        spent = time.perf_counter() - began
        shutil.rmtree(out)
        return spent

    one_batch(0)
    # Turn about within a round, too: whoever goes second meets warmer caches.
    pairs = []
    for turn in range(rounds):
        if turn % 2:
            second, first = whole(), alone()
        else:
            first, second = alone(), whole()
        pairs.append((first, second))
    ratio = median(first / second for first, second in pairs)
    return [
        {"way": "engine alone", "images_per_s": rows / median(first for first, _ in pairs), "of_engine": 1.0},
        {"way": "score", "images_per_s": rows / median(second for _, second in pairs), "of_engine": ratio},
    ]


def child(**asked: Any) -> dict[str, Any]:
    """Run one job in a fresh process; its figures."""
    done = subprocess.run(
        [sys.executable, str(CHILD), json.dumps(asked, default=str)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise SystemExit(f"a run failed: {done.stderr.strip()[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def memory(bundle: Path, logs: dict[int, Path], repeats: int, workers: int) -> list[dict[str, Any]]:
    """Peak memory of a run, by rows of its log."""
    found: dict[int, list[dict[str, Any]]] = {rows: [] for rows in logs}
    for _ in range(repeats):
        for rows, log in logs.items():
            found[rows].append(child(bundle=bundle, log=log, runner="local", workers=workers))
    return [
        {
            "rows": rows,
            "peak_mib": median(run["peak_mib"] for run in runs),
            "least_mib": min(run["peak_mib"] for run in runs),
            "most_mib": max(run["peak_mib"] for run in runs),
            "images_per_s": median(run["rows"] / run["seconds"] for run in runs),
        }
        for rows, runs in found.items()
    ]


def runners(
    bundle: Path, log: Path, names: Sequence[str], repeats: int, workers: int
) -> list[dict[str, Any]]:
    """Other ways of running the same job against `local`, each in fresh processes in turn; start-up told apart."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in ("local", *names)}
    for _ in range(repeats):
        for name, runs in found.items():
            runs.append(child(bundle=bundle, log=log, runner=name, workers=workers))
    return [
        {
            "runner": name,
            "images_per_s": median(run["rows"] / run["seconds"] for run in runs),
            "overhead": median(
                run["seconds"] / base["seconds"] - 1 for run, base in zip(runs, found["local"], strict=True)
            ),
            "same_bytes": all(run["digest"] == found["local"][0]["digest"] for run in runs),
        }
        for name, runs in found.items()
    ]


def main() -> None:
    parser = arguments(__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True, help="folder of pictures to make logs of")
    parser.add_argument("--side", type=int, default=512, help="pixels of a generated picture")
    parser.add_argument("--rows", type=int, default=2048, help="rows of the throughput log")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--memory-rows", type=int, nargs=2, default=(1_000, 10_000))
    parser.add_argument("--repeats", type=int, default=1, help="fresh processes each")
    parser.add_argument("--workers", type=int, default=cores())
    parser.add_argument("--runner", action="append", default=[], help="compare with local: ray; repeatable")
    parser.add_argument("--scratch", type=Path, default=None, help="where logs and runs are written")
    asked = parser.parse_args()
    pictures = encoded(asked.images, DISTINCT, asked.side)
    with tempfile.TemporaryDirectory(dir=asked.scratch) as scratch:
        log = Path(scratch, "throughput.parquet")
        write_log(log, pictures, asked.rows)
        speed = throughput(asked.bundle, log, pictures, asked.rows, asked.rounds, asked.workers)
        logs = {rows: Path(scratch, f"memory-{rows}.parquet") for rows in asked.memory_rows}
        for rows, path in logs.items():
            write_log(path, pictures, rows)
        peak = memory(asked.bundle, logs, asked.repeats, asked.workers)
        others = (
            runners(asked.bundle, log, asked.runner, asked.repeats, asked.workers) if asked.runner else []
        )
    ratio, growth = speed[1]["of_engine"], peak[1]["peak_mib"] / peak[0]["peak_mib"]
    results: dict[str, Any] = {"throughput": speed, "memory": peak}
    aims = [
        aim("score, of the engine alone on the same cores", ratio, 0.95, "ratio", ratio >= 0.95),
        aim(
            f"peak memory at {asked.memory_rows[1]:,} against {asked.memory_rows[0]:,} rows",
            growth,
            1.1,
            "ratio",
            growth <= 1.1,
        ),
    ]
    if others:
        results["runners"] = others
    for row in others[1:]:
        note = "same bytes as local" if row["same_bytes"] else "OTHER BYTES THAN LOCAL"
        met = row["overhead"] <= 0.15 and row["same_bytes"]
        aims.append(
            aim(f"{row['runner']} overhead on one machine", row["overhead"], 0.15, "ratio", met, note)
        )
    if "ray" not in asked.runner:
        aims.append(aim("ray overhead on one machine", None, 0.15, "ratio", False, "run with --runner ray"))
    config = {
        "bundle": Manifest.read(asked.bundle).bundle_id,
        "side_px": asked.side,
        "bytes_a_picture": sum(map(len, pictures)) // len(pictures),
        "rows": asked.rows,
        "rounds": asked.rounds,
        "repeats": asked.repeats,
        "workers": asked.workers,
        "batch_size": Settings().batch_size,
        "rows_per_shard": Settings().rows_per_shard,
    }
    emit("batch", config, results, aims, asked.json)


if __name__ == "__main__":
    main()
