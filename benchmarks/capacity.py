"""How many machines for 1 M, 100 M, 400 M and 5 B items, and when to replicate, when to shard?

python benchmarks/capacity.py --bundle out/demo/bundle [--copies 1 4 16 68] [--json] [--save] [--docs]

Measured: bytes an item, search times of one shard at several sizes, how the slowest of several shards compares with
independent draws, a gRPC hop, re-scoring from memory and from disk. Simulated from those: fan-out latency under load,
the same machines as shards or as replicas, and the plan for each corpus size. Sizes beyond the largest that was built
are put together from measured parts (centroids, codes, the rest), and say so; the spread around the median is that of
the largest. Larger sizes are the bundle's vectors with noisy copies. --docs writes the tables into docs/capacity.md.
--clock cpu counts the searching thread's own time, for a busy machine.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from capacity_measure import (
    SearchCost,
    Shard,
    hop_times,
    measure_cost,
    measure_shard,
    rescore_reads,
    split_times,
    table_bytes,
)
from capacity_model import (
    Cluster,
    Node,
    quantiles,
    replicas_for_rate,
    shards_for_latency,
    shards_for_memory,
    simulate,
    sustainable,
)
from common import ROOT, aim, arguments, emit
from index import repeated

from attributary.bundle.bundle import Bundle

CORPORA = {"1 M": 10**6, "100 M": 10**8, "400 M": 4 * 10**8, "5 B": 5 * 10**9}
GIB = 2**30
FAN_OUT = (1, 2, 4, 8, 16, 32, 64)
LOADS = (0.1, 0.3, 0.6, 0.8)
MACHINES = 8
DOCS = ROOT / "docs" / "capacity.md"


def main() -> None:
    """Measure, simulate and print."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--bundle", type=Path, default=Path("out/demo/bundle"))
    parser.add_argument("--copies", type=int, nargs="+", default=[1, 4, 16, 68])
    parser.add_argument("--queries", type=int, default=400)
    parser.add_argument("--simulated", type=int, default=20_000, help="queries of one simulation")
    parser.add_argument("--node-memory-gib", type=float, default=256)
    parser.add_argument("--node-cores", type=int, default=32)
    parser.add_argument("--rate", type=float, default=1_000, help="queries a second to plan for")
    parser.add_argument("--slowest-ms", type=float, default=10, help="the longest median search to plan for")
    parser.add_argument("--utilisation", type=float, default=0.5, help="how busy planned cores may be")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument(
        "--scratch", type=Path, default=None, help="where the 2 GiB file of the cold reads goes"
    )
    parser.add_argument("--docs", action="store_true", help="write the tables into docs/capacity.md")
    given = parser.parse_args()
    clock = time.perf_counter if given.clock == "wall" else time.thread_time
    bundle = Bundle.open(given.bundle, verify=False)
    queries = probes(np.asarray(bundle.vectors), given.queries)

    shards = [
        measure_shard(repeated(np.asarray(bundle.vectors), copies), bundle, queries, clock)
        for copies in given.copies
    ]
    largest = shards[-1]
    cost = measure_cost(largest.index, largest.plan.lists, largest.nprobe, largest.candidates, queries, clock)
    shape = largest.samples / np.median(largest.samples)
    hop = hop_times(bundle.vectors.shape[1], largest.candidates)
    with tempfile.TemporaryDirectory(dir=given.scratch) as scratch:
        warm, cold = rescore_reads(bundle.vectors.shape[1], bundle.manifest.index.candidates, Path(scratch))
    parts = split_times(bundle, 8, queries, clock)
    per_item = bytes_per_item(bundle, largest)
    node = Node(given.node_memory_gib * GIB, given.node_cores)
    tables = {
        "measured shards": [described(shard, cost) for shard in shards],
        "scan of the centroids": [
            {"lists": lists, "items of such a shard, up to": (lists // 2) ** 2, "p50_ms": seconds * 1e3}
            for lists, seconds in cost.coarse.items()
            if lists >= 1_024
        ],
        "bytes an item": [{"what": name, "bytes": value} for name, value in per_item.items()],
        "other parts": [
            {"what": "gRPC hop on one machine", **quantiles(hop)},
            {
                "what": f"re-scoring reads, {bundle.manifest.index.candidates} vectors in memory",
                "p50_ms": warm * 1e3,
            },
            {"what": "the same from disk, nothing cached", "p50_ms": cold * 1e3},
        ],
        "slowest of 8 shards": independence(parts),
        "fan-out": fan_out(largest.samples, hop, given.simulated),
        "same machines, other split": split(cost, shape, hop, given),
        "plan": [
            planned(name, items, per_item, cost, shape, largest.size, hop, node, given)
            for name, items in CORPORA.items()
        ],
    }
    report = emit(
        "capacity",
        {
            "bundle": bundle.manifest.bundle_id,
            "codes": bundle.manifest.index.factory.split(",", 1)[-1],
            "dim": int(bundle.vectors.shape[1]),
            "nprobe": bundle.manifest.index.nprobe,
            "candidates": bundle.manifest.index.candidates,
            "clock": given.clock,
            "ns_a_code": cost.per_code * 1e9,
            "rest_us": cost.rest * 1e6,
            "node": f"{given.node_cores} cores, {given.node_memory_gib:g} GiB, 25% kept free",
            "planned_for": f"{given.rate:g}/s, cores {given.utilisation:.0%} busy, search {given.slowest_ms:g} ms",
            "from_parts_beyond": largest.size,
        },
        tables,
        [
            aim(
                "simulated over measured median of the slowest of 8 shards",
                ratio(tables["slowest of 8 shards"]),
                1.0,
                "ratio",
                True,
                "stated, no aim: how far independent draws may be trusted",
            )
        ],
        given.json,
    )
    if given.docs:
        write_docs(report)


def probes(vectors: np.ndarray, count: int) -> np.ndarray:
    """Unit queries near `count` of the items, float32."""
    rng = np.random.default_rng(7)
    near = vectors[rng.choice(len(vectors), count, replace=False)].astype(np.float32)
    near += 0.6 / vectors.shape[1] ** 0.5 * rng.standard_normal(near.shape, np.float32)
    near /= np.linalg.norm(near, axis=1, keepdims=True)
    return near


def described(shard: Shard, cost: SearchCost) -> dict[str, Any]:
    """One line of the measured shards."""
    return {
        "items": shard.size,
        "index": shard.plan.factory,
        "nprobe": shard.nprobe,
        "candidates": shard.candidates,
        "recall_at_10": shard.recall_at_10,
        "bytes_per_item": shard.bytes_per_item,
        **quantiles(shard.samples),
        "model_ms": cost.seconds(shard.size) * 1e3,
    }


def bytes_per_item(bundle: Bundle, largest: Shard) -> dict[str, float]:
    """Bytes an item by what holds them."""
    return {
        "index: code and id, without the lists' centroids": largest.plan.code_bytes + 8.0,
        f"index: measured at {largest.size:,} items": largest.bytes_per_item,
        "fp16 vectors on the gateway's disk, mapped": bundle.manifest.index.vector_bytes_per_item,
        "items table in the gateway's memory": table_bytes(bundle),
    }


def independence(parts: np.ndarray) -> list[dict[str, Any]]:
    """The slowest part of the same query, measured, beside the slowest of independent draws of each part."""
    rng = np.random.default_rng(5)
    drawn = np.stack([rng.choice(parts[:, part], 20_000) for part in range(parts.shape[1])], axis=1)
    return [
        {"what": "measured, same query on every part", **quantiles(parts.max(axis=1))},
        {"what": "independent draws", **quantiles(drawn.max(axis=1))},
    ]


def ratio(rows: list[dict[str, Any]]) -> float:
    """Simulated over measured median."""
    return float(rows[1]["p50_ms"] / rows[0]["p50_ms"])


def fan_out(service: np.ndarray, hop: np.ndarray, count: int) -> list[dict[str, Any]]:
    """Latency by number of shards and load; every shard as large as the largest that was measured, one core each."""
    rows = []
    for shards in FAN_OUT:
        row: dict[str, Any] = {"shards": shards}
        for load in LOADS:
            rate = sustainable(service, Cluster(shards, 1, 1), load)
            told = quantiles(simulate(service, Cluster(shards, 1, 1), rate, count, hop))
            row[f"p50_ms at {load:.0%}"], row[f"p99_ms at {load:.0%}"] = told["p50_ms"], told["p99_ms"]
        rows.append(row)
    return rows


def split(cost: SearchCost, shape: np.ndarray, hop: np.ndarray, given: Any) -> list[dict[str, Any]]:
    """Eight machines of one core for 100 M items: from one shard eight times to eight shards once."""
    items = CORPORA["100 M"]
    rows = []
    shards = 1
    while shards <= MACHINES:
        cluster = Cluster(shards, MACHINES // shards, 1)
        service = cost.seconds(items / shards) * shape
        most = sustainable(service, cluster)
        row: dict[str, Any] = {
            "shards": shards,
            "replicas": cluster.replicas,
            "search_ms": float(np.median(service)) * 1e3,
            "at most, queries a second": most,
        }
        for load in (0.1, 0.5):
            rate = load * sustainable(cost.seconds(items) * shape, Cluster(1, MACHINES, 1))
            told = (
                quantiles(simulate(service, cluster, rate, given.simulated, hop))
                if rate < 0.98 * most
                else {}
            )
            row[f"p99_ms at {rate:.0f}/s"] = told.get("p99_ms", "overloaded")
        rows.append(row)
        shards *= 2
    return rows


def planned(
    name: str,
    items: int,
    per_item: dict[str, float],
    cost: SearchCost,
    shape: np.ndarray,
    measured: int,
    hop: np.ndarray,
    node: Node,
    given: Any,
) -> dict[str, Any]:
    """One corpus: memory, shards for memory and for latency, replicas for the rate, latency of the whole."""
    index, _, store, table = per_item.values()
    memory = shards_for_memory(items, index, node)
    latency = shards_for_latency(items, cost.seconds, given.slowest_ms / 1e3)
    shards = max(memory, latency or memory)
    service = cost.seconds(items / shards) * shape
    replicas = max(2, replicas_for_rate(service, node.cores, given.rate, given.utilisation))
    cluster = Cluster(shards, replicas, node.cores)
    told = quantiles(simulate(service, cluster, given.rate, given.simulated, hop))
    return {
        "items": name,
        "index_gib": items * index / GIB,
        "vectors_gib": items * store / GIB,
        "items_table_gib": items * table / GIB,
        "shards for memory": memory,
        "shards for latency": latency or "none",
        "shards": shards,
        "replicas": replicas,
        "nodes": cluster.machines,
        "p50_ms": told["p50_ms"],
        "p99_ms": told["p99_ms"],
        "basis": "measured" if items / shards <= measured * 1.05 else "from parts",
    }


def write_docs(report: dict[str, Any]) -> None:
    """Replace what stands between the markers of docs/capacity.md, one block a table."""
    text = DOCS.read_text(encoding="utf-8")
    for title, rows in report["results"].items():
        begin, end = f"<!-- table: {title} -->", "<!-- end -->"
        head, found, rest = text.partition(begin)
        if found:
            text = head + begin + "\n" + markdown(rows) + end + rest.partition(end)[2]
    DOCS.write_text(text, encoding="utf-8")


def markdown(rows: list[dict[str, Any]]) -> str:
    """Rows as a Markdown table."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = [columns, ["---"] * len(columns)]
    lines += [[cell(row.get(name, "")) for name in columns] for row in rows]
    return "".join("| " + " | ".join(line).replace("_ms", ", ms") + " |\n" for line in lines)


def cell(value: object) -> str:
    """A figure with three digits, whole numbers with commas."""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


if __name__ == "__main__":
    main()
