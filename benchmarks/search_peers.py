"""How does a bundle's search stand beside what others would use? Recall, speed, memory and build time, in one run.

    pip install -r benchmarks/requirements-peers.txt     # hnswlib, usearch, ScaNN, rabitqlib; those missing are named
    python benchmarks/search_vectors.py --count 100000
    python benchmarks/search_peers.py --counts 10000 100000 [--json] [--save]
    python benchmarks/search_peers.py --counts 1000000 --vectors out/bench/vectors-1m --name search_peers_1m

Every index in a fresh process on the same vectors; each of its settings is a row. `best` holds, for every recall that
somebody may ask for, each index's fastest setting that reaches it, so that speeds are compared at equal recall. Queries
a CPU second are told beside queries a second: the former depend less on a machine's neighbours. Recall is against exact
search over the same fp32 vectors, of equal items any is right, and is not timed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from common import Aim, aim, arguments, emit
from search_child import ENGINES

CHILD = Path(__file__).with_name("search_child.py")
BUCKETS = (0.9, 0.95, 0.99)
OURS = "attributary"


def exact(folder: Path, count: int, most: int) -> None:
    """Leave the ids of the nearest items of every query, int64 [Q, most], where the children look for them."""
    import faiss

    path = folder / f"exact-{count}.npy"
    if path.exists() and np.load(path, mmap_mode="r").shape[1] >= min(most, count):
        return
    items = np.load(folder / "items.npy", mmap_mode="r")[:count].astype(np.float32)
    index = faiss.IndexFlatIP(items.shape[1])
    index.add(items)
    np.save(path, index.search(np.load(folder / "queries.npy"), min(most, count))[1])


def child(engine: str, count: int, threads: int, given: Any) -> dict[str, Any]:
    """Build and measure one index; {"error": ...} where it cannot run."""
    command = [
        *(sys.executable, str(CHILD), "--engine", engine, "--vectors", str(given.vectors)),
        *("--count", str(count), "--threads", str(threads), "--seconds", str(given.seconds)),
        *("--k", *map(str, given.k), "--batch", *map(str, given.batch)),
    ]
    environment = {**os.environ, "SEARCH_THREADS": str(threads)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]}
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def best(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each (count, threads, k, batch, recall): every index's fastest setting that reaches it."""
    found: list[dict[str, Any]] = []
    cells = sorted({(r["items"], r["threads"], r["k"], r["batch"]) for r in rows})
    for cell in cells:
        here = [r for r in rows if (r["items"], r["threads"], r["k"], r["batch"]) == cell]
        for wanted in BUCKETS:
            for index in dict.fromkeys(r["index"] for r in here):
                reached = [r for r in here if r["index"] == index and r["recall"] >= wanted]
                if reached:
                    row = max(reached, key=lambda r: r["queries_cpu_s"])
                    found.append({"recall_at_least": wanted, **row})
    return found


def side_by_side(fastest: list[dict[str, Any]], wanted: float) -> list[dict[str, Any]]:
    """Queries a CPU second at a recall of `wanted`: a row an index, a column a (k, batch); empty where not reached."""
    table: dict[tuple[int, int, str], dict[str, Any]] = {}
    for row in fastest:
        if row["recall_at_least"] == wanted:
            line = table.setdefault(
                (row["items"], row["threads"], row["index"]),
                {name: row[name] for name in ("items", "threads", "index", "bytes_per_item", "build_s")},
            )
            line[f"k {row['k']}, batch {row['batch']}"] = round(row["queries_cpu_s"])
    return list(table.values())


def aims(fastest: list[dict[str, Any]], counts: list[int]) -> list[Aim]:
    """At recall@100 >= .95: ours of no more memory beside every peer, the fastest of all, and exact search."""
    told: list[Aim] = []
    for count in counts:
        here = [
            r
            for r in fastest
            if (r["items"], r["k"], r["batch"], r["threads"], r["recall_at_least"])
            == (count, 100, 64, 1, 0.95)
        ]
        mine = [r for r in here if r["index"].startswith(OURS)]
        rivals = [r for r in here if not r["index"].startswith(OURS) and r["index"] != "exact"]
        name = f"{count:,} items, recall@100 >= .95: queries a CPU second over"
        if not mine:
            told.append(
                aim(f"{name} peers", None, 1.0, "times", False, "no setting of ours reached this recall")
            )
            continue
        for peer in rivals:
            small = [r for r in mine if r["bytes_per_item"] <= peer["bytes_per_item"] * 1.02]
            own = max(small, key=speed, default=None)
            ratio = None if own is None else speed(own) / speed(peer)
            note = (
                f"{own['index']}, {own['bytes_per_item']:.0f} B an item"
                if own
                else "none of ours is as small"
            )
            against = f"{name} {peer['index']} ({peer['bytes_per_item']:.0f} B), with no more memory"
            told.append(aim(against, ratio, 1.0, "times", (ratio or 0) >= 1, note))
        own = max(mine, key=speed)
        for scan in (r for r in here if r["index"] == "exact"):
            ratio = speed(own) / speed(scan)
            told.append(aim(f"{name} exact search", ratio, 20.0, "times", ratio >= 20, own["index"]))
            part = min(r["bytes_per_item"] for r in mine) / scan["bytes_per_item"]
            told.append(aim(f"{count:,} items: memory over exact search's", part, 0.125, "x", part <= 0.125))
    return told


def speed(row: dict[str, Any]) -> float:
    """Queries a CPU second."""
    return float(row["queries_cpu_s"])


def main() -> None:
    """Measure every index at every size."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--vectors", type=Path, default=Path("out/bench/vectors"))
    parser.add_argument("--counts", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--k", type=int, nargs="+", default=[10, 100, 1_000])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 64])
    parser.add_argument("--seconds", type=float, default=0.5, help="of one row")
    parser.add_argument("--name", default="search_peers", help="what the result is kept under")
    parser.add_argument("--engines", nargs="+", choices=list(ENGINES), default=list(ENGINES))
    given = parser.parse_args()
    rows: list[dict[str, Any]] = []
    missing: dict[str, str] = {}
    for count in given.counts:
        exact(given.vectors, count, max(given.k))
        for threads in given.threads:
            for engine in given.engines:
                found = child(engine, count, threads, given)
                if "error" in found:
                    missing[f"{engine}, {count:,}"] = found["error"]
                    continue
                about = {"items": count, "threads": threads, "index": engine}
                cost = {name: found[name] for name in ("bytes_per_item", "build_s")}
                able = {row["k"] for row in found["rows"] if "error" not in row}
                for row in found["rows"]:
                    if "error" in row and row["k"] in able:
                        continue  # a setting for fewer
                    if "error" in row:
                        missing[f"{engine}, {count:,}, k {row['k']}"] = row["error"]
                    else:
                        rows.append({**about, **row, **cost})
                print(f"{count:,} items, {threads} threads: {engine}", file=sys.stderr, flush=True)
    fastest = best(rows)
    emit(
        given.name,
        {
            "vectors": json.loads((given.vectors / "about.json").read_text()),
            "seconds_a_row": given.seconds,
            "not_run": missing,
        },
        {
            **{
                f"queries a CPU second at recall {wanted:g}": side_by_side(fastest, wanted)
                for wanted in (0.95, 0.9)
            },
            "best": fastest,
            **({"all": rows} if given.json or given.save else {}),
        },
        aims(fastest, given.counts),
        given.json,
    )


if __name__ == "__main__":
    main()
