"""Which index for this corpus? Recall, latency, memory and build time together, every index beside its peers.

python benchmarks/index.py --bundle out/demo/bundle --corpus out/corpus [--json] [--save]

Every index proposes R candidates, which are then re-scored exactly from the bundle's fp16 store: recall@10 is that of
what a caller gets. Settings are tuned on one half of the probes (cropped, recoloured items, half with their caption)
and everything is measured on the other half. --copies N repeats the vectors N times with noise, to see larger sizes.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from common import aim, arguments, emit, interleaved

from attributary.attribution.open import open_engine
from attributary.building.embed import make_probes
from attributary.building.source import read_source
from attributary.index.planning import IndexBudget, Plan, list_count
from attributary.index.tuning import Exact, TunedIndex, recall, tune
from attributary.kernels import rescore

TARGET = 0.98
EF_SEARCH = 64


def peers(dim: int, lists: int) -> list[Plan]:
    """What could stand in the index's place: exact, the IVF-PQ family in both widths, scalar codes."""
    return [
        Plan("Flat", 4 * dim, 0),
        *(Plan(f"IVF{lists},PQ{parts}x4fs", parts // 2, lists) for parts in (dim // 8, dim // 4, dim // 2)),
        Plan(f"IVF{lists},PQ{dim // 8}", dim // 8, lists),
        Plan(f"IVF{lists},SQ8", dim, lists),
    ]


def main() -> None:
    """Measure and print."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--bundle", type=Path, default=Path("out/demo/bundle"))
    parser.add_argument("--corpus", type=Path, default=Path("out/corpus"))
    parser.add_argument("--probes", type=int, default=1_000)
    parser.add_argument("--copies", type=int, default=1)
    given = parser.parse_args()
    faiss.omp_set_num_threads(1)
    engine = open_engine(given.bundle, encoder_threads=2)
    probes = make_probes(
        read_source(given.corpus), engine.encoder, engine.tokenizer, given.probes, 1, 2, lambda *_: None
    ).embeddings
    order = np.random.default_rng(0).permutation(len(probes))
    tuning, held_out = probes[order[::2]], probes[order[1::2]]
    vectors = repeated(np.asarray(engine.bundle.vectors), given.copies)
    size, dim = vectors.shape
    budget = IndexBudget(target_recall=TARGET)
    nearest = Exact.of(vectors, tuning, held_out, budget)
    exact = nearest.held_out
    rows: list[dict[str, Any]] = []
    calls = {}
    for plan in peers(dim, list_count(size)):
        started = time.perf_counter()
        index = train(plan, vectors)
        seconds = time.perf_counter() - started
        tuned = tune(plan, index, vectors, tuning, held_out, budget, nearest)
        rows.append(described(plan.factory, tuned, held_out, exact, seconds))
        calls[plan.factory] = asking(tuned, vectors, held_out)
    graph = faiss.index_factory(dim, "HNSW32", faiss.METRIC_INNER_PRODUCT)
    if size <= 200_000:
        started = time.perf_counter()
        graph.add(vectors.astype(np.float32))
        seconds = time.perf_counter() - started
        graph.hnsw.efSearch = EF_SEARCH
        found = graph.search(held_out, 10)[1]
        rows.append(
            {
                "index": f"HNSW32 (efSearch {EF_SEARCH})",
                "nprobe": 0,
                "candidates": 10,
                "recall_at_10": recall(found, exact),
                "bytes_per_item": len(faiss.serialize_index(graph)) / size,
                "build_s": seconds,
            }
        )
        turn = iter(np.resize(np.arange(len(held_out)), 100_000).tolist())
        calls[rows[-1]["index"]] = lambda: graph.search(held_out[[next(turn)]], 10)
    medians = interleaved(calls, rounds=300, warmup=20)
    for row in rows:
        row["search_and_rescore_ms"] = medians[row["index"]] * 1e3
    entry = engine.bundle.manifest.index
    served = next((row for row in rows if row["index"] == entry.factory), None)
    found = engine.index.search(held_out, entry.candidates)
    reached = recall(found, exact) if given.copies == 1 else float("nan")
    emit(
        "index" if given.copies == 1 else f"index-{size}",
        {
            "items": size,
            "dim": dim,
            "probes": len(held_out),
            "threads": 1,
            "target_recall": TARGET,
            "vector_store_bytes_per_item": 2 * dim,
            "served": entry.factory,
            "served_same_family_measured": served is not None,
        },
        rows,
        []
        if given.copies > 1
        else [
            aim("recall@10 of the served index after re-scoring", reached, 0.95, "share", reached >= 0.95),
            aim(
                "memory an item: index file + fp16 store",
                entry.bytes_per_item + entry.vector_bytes_per_item,
                0,
                "bytes",
                True,
                "stated, no aim",
            ),
        ],
        given.json,
    )


def repeated(vectors: np.ndarray, copies: int) -> np.ndarray:
    """The vectors, then copies of them with enough noise to be other items of the same kind; unit rows."""
    if copies == 1:
        return vectors
    rng = np.random.default_rng(5)
    parts = [vectors]
    for _ in range(copies - 1):
        noisy = vectors.astype(np.float32) + 0.6 / vectors.shape[1] ** 0.5 * rng.standard_normal(
            vectors.shape, np.float32
        )
        parts.append((noisy / np.linalg.norm(noisy, axis=1, keepdims=True)).astype(np.float16))
    return np.concatenate(parts)


def train(plan: Plan, vectors: np.ndarray) -> Any:
    """Train and fill one index."""
    index = faiss.index_factory(vectors.shape[1], plan.factory, faiss.METRIC_INNER_PRODUCT)
    floats = vectors.astype(np.float32)
    index.train(floats[:: max(1, len(floats) // 100_000)])
    index.add(floats)
    return index


def described(
    name: str, tuned: TunedIndex, queries: np.ndarray, exact: np.ndarray, seconds: float
) -> dict[str, Any]:
    """One line of the table."""
    found = tuned.index.search(queries, tuned.candidates)
    return {
        "index": name,
        "nprobe": tuned.nprobe,
        "candidates": tuned.candidates,
        "recall_at_10": recall(found, exact),
        "bytes_per_item": tuned.bytes_per_item,
        "build_s": seconds,
    }


def asking(tuned: TunedIndex, vectors: np.ndarray, queries: np.ndarray) -> Any:
    """One query's search and re-scoring, another query each time."""
    turn = iter(np.resize(np.arange(len(queries)), 100_000).tolist())
    people = np.zeros(len(vectors), np.int32)
    groups = np.arange(len(vectors), dtype=np.int32)
    # As kernels.CALIBRATION names them.
    calibration = np.array([[0.05, 0.02, 0.5, 0, -1, 0, 0, 1, 1]], np.float32)

    def ask() -> None:
        query = queries[[next(turn)]]
        found = tuned.index.search(query, tuned.candidates)
        rescore(query, found, vectors, people, groups, calibration, top_k=10, top_creators=10)

    return ask


if __name__ == "__main__":
    main()
