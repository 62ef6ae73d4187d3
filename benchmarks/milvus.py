"""Does the way through Milvus find what an exact search finds, and what does it cost beside FAISS in process?

python benchmarks/milvus.py --bundle out/demo/bundle [--uri http://milvus:19530] [--queries 1000] [--json] [--save]

Without --uri this is milvus-lite, which scans exactly: its ids are compared with an exact search, and its times
say nothing about a cluster. On a cluster recall@10 after re-scoring takes the place of equality.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
from common import aim, arguments, emit, interleaved

from attributary.bundle.bundle import Bundle
from attributary.index.base import VectorIndex
from attributary.index.faiss_index import FaissIndex
from attributary.index.milvus import MilvusIndex
from attributary.index.milvus_client import MilvusServer
from attributary.index.milvus_push import PushOptions, drop, push
from attributary.index.tuning import exact_neighbours, recall

COLLECTION = "attributary_benchmark"
TOP = 10


def main() -> None:
    """Measure and print."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--bundle", type=Path, default=Path("out/demo/bundle"))
    parser.add_argument("--uri", default="")
    parser.add_argument("--token", default="")
    parser.add_argument("--index-type", choices=("auto", "gpu", "flat"), default="auto")
    parser.add_argument("--queries", type=int, default=1_000)
    parser.add_argument("--rounds", type=int, default=100)
    given = parser.parse_args()
    bundle = Bundle.open(given.bundle, verify=False)
    queries = noisy(bundle.vectors, given.queries)
    with tempfile.TemporaryDirectory() as scratch:
        server = MilvusServer(given.uri or str(Path(scratch) / "lite.db"), given.token, timeout_s=60)
        started = time.perf_counter()
        pushed = push(bundle, server, PushOptions(COLLECTION, given.index_type, force=True))
        seconds = time.perf_counter() - started
        index = MilvusIndex.open(bundle, server, COLLECTION)
        faiss = FaissIndex.read(bundle.index_path, bundle.manifest.index.nprobe, threads=1)
        exact = exact_neighbours(bundle.vectors, queries, TOP + 1)
        same, clear = compared(index, bundle.vectors, queries, exact)
        count = bundle.manifest.index.candidates
        found = np.concatenate(
            [index.search(queries[at : at + 64], count) for at in range(0, len(queries), 64)]
        )
        rows = [
            {
                "index": f"Milvus {index.plan.index_type} ({server.version})",
                "recall_at_10": recall(found, exact[:, :TOP]),
                "same_ids": same,
                "push_rows_a_second": pushed.rows / seconds,
            },
            {
                "index": bundle.manifest.index.factory,
                "recall_at_10": recall(faiss.search(queries, count), exact[:, :TOP]),
            },
        ]
        for size in (1, 32):
            medians = searched((index, faiss), queries, size, count, given.rounds)
            for row, median in zip(rows, medians, strict=True):
                row[f"search_{size}_ms"] = median * 1e3
        drop(server, COLLECTION)
        server.close()
    lite = server.is_lite
    emit(
        "milvus",
        {
            "items": len(bundle.items),
            "dim": int(bundle.vectors.shape[1]),
            "queries": len(queries),
            "candidates": count,
            "server": server.version,
            "plan": asdict(pushed.plan),
        },
        rows,
        [
            aim(
                "queries with the same ids as a flat search",
                same,
                1.0,
                "share",
                same == 1.0,
                f"of {clear} queries whose tenth and eleventh items differ"
                + ("" if lite else "; a cluster's IVF_PQ is approximate"),
            )
        ],
        given.json,
    )


def compared(
    index: MilvusIndex, vectors: np.ndarray, queries: np.ndarray, exact: np.ndarray
) -> tuple[float, int]:
    """(share of queries whose TOP ids are those of the exact search, how many could be compared)."""
    found = np.concatenate([index.search(queries[at : at + 64], TOP) for at in range(0, len(queries), 64)])
    scores = np.einsum("qd,qkd->qk", queries, vectors[exact].astype(np.float32))
    clear = scores[:, TOP - 1] - scores[:, TOP] > 1e-6
    same = (np.sort(found[clear], axis=1) == np.sort(exact[clear, :TOP], axis=1)).all(axis=1)
    return float(same.mean()), int(clear.sum())


def searched(
    indexes: Sequence[VectorIndex], queries: np.ndarray, size: int, count: int, rounds: int
) -> list[float]:
    """Median seconds in which each index, in turn, answers the next `size` queries."""
    turn = iter(np.resize(np.arange(0, len(queries) - size, size), 100_000).tolist())

    def search(index: VectorIndex) -> None:
        first = next(turn)
        index.search(queries[first : first + size], count)

    calls = {str(place): partial(search, index) for place, index in enumerate(indexes)}
    return list(interleaved(calls, rounds=rounds).values())


def noisy(vectors: np.ndarray, count: int) -> np.ndarray:
    """Unit queries near `count` of the items, float32."""
    rng = np.random.default_rng(11)
    rows = np.asarray(vectors[np.sort(rng.choice(len(vectors), min(count, len(vectors)), replace=False))])
    near: np.ndarray = rows.astype(np.float32)
    near += 0.6 / vectors.shape[1] ** 0.5 * rng.standard_normal(rows.shape, np.float32)
    near /= np.linalg.norm(near, axis=1, keepdims=True)
    return near


if __name__ == "__main__":
    main()
