"""Training an index and choosing how hard it looks, against exact search over the same vectors."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from attributary.errors import InvalidArgumentError

from .faiss_index import FaissIndex, one_by_one
from .planning import IndexBudget, Plan, plans

log = logging.getLogger(__name__)

RECALL_AT = 10  # of the recall that is reported
# By time on one thread, where a byte of 4-bit codes in lists is 1: a byte of 8-bit codes, which a kernel multiplies as
# it is, and one of a graph, where looking at an item is a jump to its code.
_BYTES, _JUMP = 0.4, 3.0
_EFFORTS = (64, 100, 150, 200, 300, 400, 600, 800, 1_200, 2_000)  # efSearch
_TRAIN_POINTS = 500_000
_CANDIDATES = (32, 64, 100, 150, 200, 300, 400, 600, 800, 1_000, 1_500, 2_000, 5_000, 10_000, 20_000)


@dataclass(frozen=True, slots=True)
class TunedIndex:
    """An index, how hard it looks, and what it reached on queries that it was not tuned on."""

    index: FaissIndex
    factory: str
    nprobe: int  # 0 without lists
    candidates: int  # R
    recall_at_10: float
    recall_queries: int
    bytes_per_item: float
    cost: float  # of one search and its re-scoring, in bytes of 4-bit codes read: what tuning minimises
    met: bool  # whether the tuning queries reached the target recall

    @property
    def rank(self) -> tuple[bool, float]:
        """Larger is better: a target reached cheaply, else a recall close to it."""
        return self.met, -self.cost if self.met else self.recall_at_10


def build_index(
    vectors: NDArray[np.float16], queries: NDArray[np.float32], budget: IndexBudget, seed: int = 0
) -> TunedIndex:
    """Train, fill and tune the cheapest index that reaches the budget's recall.

    `vectors` is fp16 [N, D], unit rows: what re-scoring will see. `queries` is float32 [Q, D], Q >= 20, of the kind
    that will be asked: a shuffled half tunes, the other half measures the recall that is reported. If nothing within
    the budget reaches the target, the best one is returned with `met` false. Raises InvalidArgumentError.
    """
    if len(vectors) == 0:
        raise InvalidArgumentError("vectors", "a bundle needs at least one item")
    if len(queries) < 20:
        raise InvalidArgumentError("queries", f"at least 20 are needed to measure recall, got {len(queries)}")
    order = np.random.default_rng(seed).permutation(len(queries))
    tuning, held_out = queries[order[::2]], queries[order[1::2]]
    best: TunedIndex | None = None
    passed: set[str] = set()  # families whose larger plans only cost more
    centres: dict[int, NDArray[np.float32]] = {}
    for plan in plans(len(vectors), vectors.shape[1], budget):
        if best is not None and best.met and (plan.family in passed or plan.factory.startswith("OPQ")):
            continue
        tuned = tune(plan, train(plan, vectors, seed, centres), vectors, tuning, held_out, budget)
        log.info(
            "%s: nprobe %d, R %d, recall@10 %.4f, a query costs as %.0f KB of codes",
            *(plan.factory, tuned.nprobe, tuned.candidates, tuned.recall_at_10, tuned.cost / 1e3),
        )
        if best is None or tuned.rank > best.rank:
            best = tuned
        elif best.met:
            # Longer codes need fewer candidates up to a point; past it they only cost more.
            passed.add(plan.family)
    assert best is not None
    return best


def exact_neighbours(
    vectors: NDArray[np.float16], queries: NDArray[np.float32], count: int, block: int = 65_536
) -> NDArray[np.int64]:
    """Rows of the `count` nearest vectors by inner product, int64 [Q, min(count, N)], nearest first."""
    count = min(count, len(vectors))
    best = np.full((len(queries), 0), -np.inf, np.float32)
    rows = np.zeros((len(queries), 0), np.int64)
    for start in range(0, len(vectors), block):
        part = vectors[start : start + block].astype(np.float32)
        best = np.concatenate([best, queries @ part.T], axis=1)
        ids = np.broadcast_to(np.arange(start, start + len(part)), (len(queries), len(part)))
        rows = np.concatenate([rows, ids], axis=1)
        keep = np.argsort(-best, axis=1, kind="stable")[:, :count]
        best, rows = np.take_along_axis(best, keep, 1), np.take_along_axis(rows, keep, 1)
    return rows


def recall(candidates: NDArray[np.int64], exact: NDArray[np.int64]) -> float:
    """Share of the exact neighbours [Q, K] that are among the candidates [Q, R]: recall@K after exact re-scoring."""
    hits = (exact[:, :, None] == candidates[:, None, :]).any(axis=2)
    return float(hits.mean())


def tune(
    plan: Plan,
    index: Any,
    vectors: NDArray[np.float16],
    tuning: NDArray[np.float32],
    held_out: NDArray[np.float32],
    budget: IndexBudget,
) -> TunedIndex:
    """Choose nprobe and R of a filled FAISS index at the least cost, and measure it on the held-out queries."""
    size, dim = vectors.shape
    # Exact scans also yield candidates: the fp16 store decides the order, as in every other case.
    most = min(size, budget.max_candidates)
    options = [count for count in _CANDIDATES if budget.min_candidates <= count < most] + [most]
    exact = exact_neighbours(vectors, tuning, min(budget.recall_at, size))
    best: tuple[bool, float, int, int] | None = None
    costs: dict[tuple[int, int], float] = {}
    for nprobe in _probes(plan, size):
        scanned = nprobe * size / plan.lists if plan.lists else size
        # A graph looks as hard as it has candidates to find.
        most_here = min(options[-1], nprobe) if plan.links else options[-1]
        faiss.cvar.hnsw_stats.reset()
        found = FaissIndex(index, nprobe).probe(tuning, most_here, nprobe)
        looked = faiss.cvar.hnsw_stats.ndis / len(tuning) if plan.links else scanned
        for count in options:
            if count > min(scanned, most_here) and count > options[0]:
                # Lists that hold fewer rows than are asked for would be asked again at run time.
                continue
            reached = recall(found[:, :count], exact)
            cost = costs[nprobe, count] = _cost(plan, dim, looked, count)
            met = reached >= budget.target_recall
            rank = (met, -cost if met else reached, nprobe, count)
            if best is None or rank[:2] > best[:2]:
                best = rank
    assert best is not None
    met, _, nprobe, count = best
    tuned = FaissIndex(index, nprobe)
    return TunedIndex(
        index=tuned,
        factory=plan.factory,
        nprobe=nprobe,
        candidates=count,
        recall_at_10=recall(tuned.search(held_out, count), exact_neighbours(vectors, held_out, RECALL_AT)),
        recall_queries=len(held_out),
        bytes_per_item=len(faiss.serialize_index(index)) / size,
        cost=costs[nprobe, count],
        met=met,
    )


def train(
    plan: Plan,
    vectors: NDArray[np.float16],
    seed: int,
    centres: dict[int, NDArray[np.float32]] | None = None,
) -> Any:
    """Return a FAISS index of `plan` with all vectors in it, the same one each time.

    `centres` keeps those of lists by their number, from one plan to the next with the same vectors and seed: finding
    them takes most of the time. A rotated index has its own.
    """
    index = faiss.index_factory(vectors.shape[1], plan.factory, faiss.METRIC_INNER_PRODUCT)
    if plan.lists:
        inner = faiss.downcast_index(faiss.extract_index_ivf(index))
        inner.cp.seed = seed
        if hasattr(inner, "pq"):
            inner.pq.cp.niter = 12
        if isinstance(index, faiss.IndexPreTransform):
            centres = None
        if centres is not None and plan.lists in centres:
            # FAISS looks for none where there are as many as it would find.
            inner.quantizer.add(centres[plan.lists])
    threads = faiss.omp_get_max_threads()
    try:
        if plan.links:
            one_by_one(index)
        if plan.lists or plan.links:
            rows = np.arange(len(vectors))
            if len(vectors) > _TRAIN_POINTS:
                rows = np.sort(np.random.default_rng(seed).choice(len(vectors), _TRAIN_POINTS, replace=False))
            index.train(vectors[rows].astype(np.float32))
        if plan.lists and centres is not None:
            centres.setdefault(plan.lists, inner.quantizer.reconstruct_n(0, plan.lists))
        for start in range(0, len(vectors), 65_536):
            index.add(vectors[start : start + 65_536].astype(np.float32))
    finally:
        faiss.omp_set_num_threads(threads)
    return index


def _cost(plan: Plan, dim: int, looked: float, count: int) -> float:
    """Of the codes that are looked at (or every vector), then R fp16 vectors of the store."""
    each = _JUMP * plan.held_bytes if plan.links else plan.code_bytes * (_BYTES if plan.bytes else 1)
    return looked * each + count * dim * 2.0


def _probes(plan: Plan, size: int) -> list[int]:
    if plan.links:
        return [effort for effort in _EFFORTS if effort < size] or [size]
    if not plan.lists:
        return [0]
    probes = [1]
    while probes[-1] * 2 <= plan.lists:
        probes.append(probes[-1] * 2)
    return probes
