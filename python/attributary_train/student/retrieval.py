"""Does the encoder find what it should? Changed copies of indexed items, and other drawings of their concepts.

Two questions, by exact search among the whole index:
(a) is the original of a changed copy, without a prompt, at rank 1?
(b) is an item of the same concept, by another creator, among the first ten for a held-out creator's drawing?
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .copies import KINDS
from .splits import Split, sample_order, split_of

FloatArray = NDArray[np.float32]
Positions = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class CopyQueries:
    """Changed copies to make: query i is item `originals[i]`, changed in the way `kinds[i]`, with `seeds[i]`."""

    originals: Positions
    kinds: tuple[str, ...]
    seeds: tuple[int, ...]


def draw_copies(ids: Sequence[int], split: Split, count: int) -> CopyQueries:
    """Draw up to `count` items of a split, the kinds of change in turn; the same corpus gives the same draw."""
    chosen = [row for row, number in enumerate(ids) if split_of(str(number)) == split]
    chosen = sorted(chosen, key=lambda row: sample_order(str(ids[row])))[:count]
    kinds = tuple(KINDS)
    return CopyQueries(
        np.array(chosen, np.int64),
        tuple(kinds[i % len(kinds)] for i in range(len(chosen))),
        tuple(ids[row] for row in chosen),
    )


def draw_concepts(concepts: Sequence[str], indexed: Sequence[str], split: Split) -> Positions:
    """Held-out drawings of a split whose concept the index has, as positions in `concepts`."""
    known = set(indexed)
    return np.array(
        [row for row, name in enumerate(concepts) if name in known and split_of(name) == split], np.int64
    )


@dataclass(frozen=True, slots=True)
class CopyResult:
    """Shares of copies, 0 to 1."""

    original_first: float  # rank 1 is the original itself
    group_first: float  # rank 1 is the original or one of its near duplicates
    by_kind: dict[str, float]  # original_first of each kind of change
    queries: int


def measure_copies(
    index: FloatArray, groups: NDArray[np.int64], vectors: FloatArray, queries: CopyQueries
) -> CopyResult:
    """Question (a). `index` is float32 [N, D], `vectors` [Q, D] of the copies, both of unit length."""
    first = (vectors @ index.T).argmax(axis=1)
    right = first == queries.originals
    grouped = groups[first] == groups[queries.originals]
    kinds = np.array(queries.kinds)
    by_kind = {kind: float(right[kinds == kind].mean()) for kind in KINDS if (kinds == kind).any()}
    return CopyResult(float(right.mean()), float(grouped.mean()), by_kind, len(right))


@dataclass(frozen=True, slots=True)
class ConceptResult:
    """Shares of held-out drawings, 0 to 1."""

    in_top_10: float
    first: float
    queries: int


def measure_concepts(
    index: FloatArray, index_concepts: NDArray[np.str_], vectors: FloatArray, concepts: NDArray[np.str_]
) -> ConceptResult:
    """Question (b). `index` is float32 [N, D], `vectors` [Q, D], both of unit length."""
    similarity = vectors @ index.T
    top = np.argpartition(-similarity, min(10, len(index) - 1), axis=1)[:, :10]
    hit = (index_concepts[top] == concepts[:, None]).any(axis=1)
    first = index_concepts[similarity.argmax(axis=1)] == concepts
    return ConceptResult(float(hit.mean()), float(first.mean()), len(vectors))
