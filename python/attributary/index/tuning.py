"""Training an index and choosing how hard it looks, against exact search over the same vectors."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from attributary.errors import InvalidArgumentError

from .faiss_index import FaissIndex
from .planning import IndexBudget, Plan, plans

log = logging.getLogger(__name__)

RECALL_AT = 10
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
    bytes_per_query: float  # read by one search and its re-scoring: what tuning minimises
    met: bool  # whether the tuning queries reached the target recall

    @property
    def rank(self) -> tuple[bool, float]:
        """Larger is better: a target reached cheaply, else a recall close to it."""
        return self.met, -self.bytes_per_query if self.met else self.recall_at_10


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
    for plan in plans(len(vectors), vectors.shape[1], budget):
        if best is not None and best.met and plan.factory.startswith("OPQ"):
            break
        tuned = tune(plan, _train(plan, vectors, seed), vectors, tuning, held_out, budget)
        log.info(
            "%s: nprobe %d, R %d, recall@10 %.4f, %.0f KB a query",
            *(plan.factory, tuned.nprobe, tuned.candidates, tuned.recall_at_10, tuned.bytes_per_query / 1e3),
        )
        if best is None or tuned.rank > best.rank:
            best = tuned
        elif best.met:
            # Longer codes need fewer candidates up to a point; past it they only cost more.
            break
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
    """Choose nprobe and R of a filled FAISS index at the least bytes read, and measure it on the held-out queries."""
    size, dim = vectors.shape
    # Exact scans also yield candidates: the fp16 store decides the order, as in every other case.
    most = min(size, budget.max_candidates)
    options = [count for count in _CANDIDATES if budget.min_candidates <= count < most] + [most]
    exact = exact_neighbours(vectors, tuning, RECALL_AT)
    best: tuple[bool, float, int, int] | None = None
    for nprobe in _probes(plan.lists):
        found = FaissIndex(index, nprobe).probe(tuning, options[-1], nprobe)
        scanned = nprobe * size / plan.lists if plan.lists else size
        for count in options:
            if count > scanned and count > options[0]:
                # Lists that hold fewer rows than are asked for would be asked again at run time.
                continue
            reached = recall(found[:, :count], exact)
            cost = _bytes_per_query(plan, size, dim, nprobe, count)
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
        bytes_per_query=_bytes_per_query(plan, size, dim, nprobe, count),
        met=met,
    )


def _train(plan: Plan, vectors: NDArray[np.float16], seed: int) -> Any:
    index = faiss.index_factory(vectors.shape[1], plan.factory, faiss.METRIC_INNER_PRODUCT)
    if plan.lists:
        inner = faiss.downcast_index(faiss.extract_index_ivf(index))
        inner.cp.seed = seed
        inner.pq.cp.niter = 12
        rows = np.arange(len(vectors))
        if len(vectors) > _TRAIN_POINTS:
            rows = np.sort(np.random.default_rng(seed).choice(len(vectors), _TRAIN_POINTS, replace=False))
        index.train(vectors[rows].astype(np.float32))
    for start in range(0, len(vectors), 65_536):
        index.add(vectors[start : start + 65_536].astype(np.float32))
    return index


def _bytes_per_query(plan: Plan, size: int, dim: int, nprobe: int, count: int) -> float:
    """The codes of the probed lists (or every vector), then R fp16 vectors of the store."""
    scanned = nprobe * size / plan.lists if plan.lists else size
    return scanned * plan.code_bytes + count * dim * 2.0


def _probes(lists: int) -> list[int]:
    if not lists:
        return [0]
    probes = [1]
    while probes[-1] * 2 <= lists:
        probes.append(probes[-1] * 2)
    return probes
