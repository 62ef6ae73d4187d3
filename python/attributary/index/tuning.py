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
_BLOCK = 65_536
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


@dataclass(frozen=True, slots=True)
class Exact:
    """Rows of the nearest vectors, int64: of the tuning queries [Q1, K], of those held out [Q2, 10]."""

    tuning: NDArray[np.int64]
    held_out: NDArray[np.int64]

    @classmethod
    def of(
        cls,
        vectors: NDArray[np.float16],
        tuning: NDArray[np.float32],
        held_out: NDArray[np.float32],
        budget: IndexBudget,
    ) -> Exact:
        """Compare queries with every vector; K is the budget's `recall_at`."""
        return cls(
            exact_neighbours(vectors, tuning, budget.recall_at),
            exact_neighbours(vectors, held_out, RECALL_AT),
        )


@dataclass(frozen=True, slots=True)
class Lists:
    """What indexes of as many lists have in common: centres, float32 [L, D], and each item's list, int64 [N]."""

    centres: NDArray[np.float32]
    of_item: NDArray[np.int64]

    @classmethod
    def of(cls, quantizer: Any, vectors: NDArray[np.float16]) -> Lists:
        """Ask a trained quantizer for the list of every vector."""
        parts = [
            quantizer.assign(vectors[start : start + _BLOCK].astype(np.float32), 1)[:, 0]
            for start in range(0, len(vectors), _BLOCK)
        ]
        return cls(quantizer.reconstruct_n(0, quantizer.ntotal), np.concatenate(parts))


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
    lists: dict[int, Lists] = {}
    exact = Exact.of(vectors, tuning, held_out, budget)
    for plan in plans(len(vectors), vectors.shape[1], budget):
        if best is not None and best.met and (plan.family in passed or plan.factory.startswith("OPQ")):
            continue
        index = train(plan, vectors, seed, lists)
        tuned = tune(plan, index, vectors, tuning, held_out, budget, exact)
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
    vectors: NDArray[np.float16], queries: NDArray[np.float32], count: int, block: int = _BLOCK
) -> NDArray[np.int64]:
    """Rows of the `count` nearest vectors by inner product, int64 [Q, min(count, N)], nearest first, of equals the
    earlier row."""
    count = min(count, len(vectors))
    best = np.full((len(queries), count), -np.inf, np.float32)
    rows = np.full((len(queries), count), -1, np.int64)
    for start in range(0, len(vectors), block):
        scores = queries @ vectors[start : start + block].astype(np.float32).T
        # Few of a block are nearer than the last that is kept: sorting these takes no time.
        query, column = np.nonzero(scores > best[:, -1:])
        counts = np.bincount(query, minlength=len(queries))
        place = count + np.arange(len(query)) - np.repeat(np.cumsum(counts) - counts, counts)
        more = np.full((len(queries), count + counts.max(initial=0)), -np.inf, np.float32)
        ids = np.full(more.shape, -1, np.int64)
        more[:, :count], ids[:, :count] = best, rows
        more[query, place], ids[query, place] = scores[query, column], start + column
        keep = np.argsort(-more, axis=1, kind="stable")[:, :count]
        best, rows = np.take_along_axis(more, keep, 1), np.take_along_axis(ids, keep, 1)
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
    exact: Exact,
) -> TunedIndex:
    """Choose nprobe and R of a filled FAISS index at the least cost, and measure it on the held-out queries."""
    size, dim = vectors.shape
    # Exact scans also yield candidates: the fp16 store decides the order, as in every other case.
    most = min(size, budget.max_candidates)
    options = [count for count in _CANDIDATES if budget.min_candidates <= count < most] + [most]
    best: tuple[bool, float, int, int] | None = None
    costs: dict[tuple[int, int], float] = {}
    for nprobe in _probes(plan, size):
        scanned = nprobe * size / plan.lists if plan.lists else size
        if best is not None and best[0] and plan.lists and _cost(plan, dim, scanned, options[0]) > -best[1]:
            # Looking into more lists costs more than what was found, whatever it finds.
            break
        # A graph looks as hard as it has candidates to find.
        most_here = min(options[-1], nprobe) if plan.links else options[-1]
        faiss.cvar.hnsw_stats.reset()
        found = FaissIndex(index, nprobe).probe(tuning, most_here, nprobe)
        looked = faiss.cvar.hnsw_stats.ndis / len(tuning) if plan.links else scanned
        for count in options:
            if count > min(scanned, most_here) and count > options[0]:
                # Lists that hold fewer rows than are asked for would be asked again at run time.
                continue
            reached = recall(found[:, :count], exact.tuning)
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
        recall_at_10=recall(tuned.search(held_out, count), exact.held_out),
        recall_queries=len(held_out),
        bytes_per_item=len(faiss.serialize_index(index)) / size,
        cost=costs[nprobe, count],
        met=met,
    )


def train(plan: Plan, vectors: NDArray[np.float16], seed: int, known: dict[int, Lists] | None = None) -> Any:
    """Return a FAISS index of `plan` with all vectors in it, the same one each time.

    `known` keeps lists by their number, from one plan to the next with the same vectors and seed: finding them and
    what lies in them takes most of the time. A rotated index has its own.
    """
    index = faiss.index_factory(vectors.shape[1], plan.factory, faiss.METRIC_INNER_PRODUCT)
    lists = None
    if plan.lists:
        inner = faiss.downcast_index(faiss.extract_index_ivf(index))
        inner.cp.seed = seed
        if hasattr(inner, "pq"):
            inner.pq.cp.niter = 12
        if not isinstance(index, faiss.IndexPreTransform) and known is not None:
            lists = known.get(plan.lists)
        if lists is not None:
            # FAISS looks for no centres where there are as many as it would find.
            inner.quantizer.add(lists.centres)
    threads = faiss.omp_get_max_threads()
    try:
        if plan.links:
            one_by_one(index)
        if plan.lists or plan.links:
            rows = np.arange(len(vectors))
            if len(vectors) > _TRAIN_POINTS:
                rows = np.sort(np.random.default_rng(seed).choice(len(vectors), _TRAIN_POINTS, replace=False))
            index.train(vectors[rows].astype(np.float32))
        if not plan.lists or isinstance(index, faiss.IndexPreTransform):
            for start in range(0, len(vectors), _BLOCK):
                index.add(vectors[start : start + _BLOCK].astype(np.float32))
            return index
        if lists is None:
            lists = Lists.of(inner.quantizer, vectors)
        if known is not None:
            known[plan.lists] = lists
        return _filled(index, vectors, lists.of_item)
    finally:
        faiss.omp_set_num_threads(threads)


def _filled(index: Any, vectors: NDArray[np.float16], of_item: NDArray[np.int64]) -> Any:
    """Put vectors into their lists: the index that `add` would have made, which asks for the lists of each again."""
    packed = isinstance(index, faiss.IndexIVFPQFastScan)
    into = index
    if packed:
        # Codes packed for fast-scan cannot be put into a list that is told; plain ones can, and are packed then.
        into = faiss.IndexIVFPQ(
            index.quantizer, index.d, index.nlist, index.pq.M, index.pq.nbits, index.metric_type
        )
        into.pq, into.by_residual, into.is_trained = index.pq, index.by_residual, True
    for start in range(0, len(vectors), _BLOCK):
        block = vectors[start : start + _BLOCK].astype(np.float32)
        places = np.ascontiguousarray(of_item[start : start + _BLOCK])
        into.add_core(len(block), faiss.swig_ptr(block), None, faiss.swig_ptr(places))
    if not packed:
        return index
    made = faiss.IndexIVFPQFastScan(into, index.bbs)
    made.cp, made.own_fields = index.cp, True
    index.own_fields = False
    return made


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
