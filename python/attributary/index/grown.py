"""An index over a bundle's rows and the few that were added behind them: exact search there, merged with the base."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from attributary import kernels

from .base import VectorIndex


class GrownIndex:
    """A `VectorIndex` of size N + T: `base` over N rows, exact search over the T behind them.

    `vectors` is the bundle's store, fp16 [N, D]; `tail` the vectors behind it, float32 [T, D]. Candidates of both are
    merged by exact similarity, so that as many come back as were asked for and no more. Safe for concurrent searches.
    """

    def __init__(self, base: VectorIndex, vectors: NDArray[np.float16], tail: NDArray[np.float32]) -> None:
        self.base = base
        self._vectors = vectors
        self._tail = tail
        self._nothing = np.zeros(len(vectors), np.int32)

    @property
    def dim(self) -> int:
        """D, dimensions of a vector."""
        return self.base.dim

    @property
    def size(self) -> int:
        """How many rows are indexed."""
        return self.base.size + len(self._tail)

    def search(
        self, queries: NDArray[np.float32], count: int, allowed: NDArray[np.uint8] | None = None
    ) -> NDArray[np.int64]:
        """Return candidate rows, int64 [B, count], -1 only where fewer rows pass (see `VectorIndex.search`)."""
        split = self.base.size
        of_base = None
        scores = queries @ self._tail.T
        if allowed is not None:
            of_base, of_tail = _cut(allowed, split, len(self._tail))
            scores[:, of_tail == 0] = -np.inf
        rows, similarity = self._base_rows(queries, min(count, split), of_base)
        behind = np.broadcast_to(np.arange(split, self.size), scores.shape)
        similarity = np.concatenate([similarity, scores], axis=1)
        best = _best(similarity, count)
        found = np.take_along_axis(np.concatenate([rows, behind], axis=1), best, 1)
        found[np.take_along_axis(similarity, best, 1) == -np.inf] = -1
        missing = count - found.shape[1]
        return np.pad(found, ((0, 0), (0, missing)), constant_values=-1) if missing > 0 else found

    def _base_rows(
        self, queries: NDArray[np.float32], count: int, allowed: NDArray[np.uint8] | None
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The base's candidates and their exact similarities, minus infinity where there is none."""
        rows = self.base.search(queries, count, allowed)
        ones = np.ones(len(queries), np.float32)
        # Only for its similarities: the kernel reads half precision in place, NumPy would convert a copy first.
        scored = kernels.rescore(
            np.ascontiguousarray(queries),
            rows,
            self._vectors,
            self._nothing,
            self._nothing,
            temperature=ones,
            threshold=0 * ones,
            background=0 * ones,
            top_k=count,
            top_creators=0,
        )
        return scored.rows, np.where(scored.rows >= 0, scored.similarity, np.float32(-np.inf))


def _cut(bitmap: NDArray[np.uint8], split: int, behind: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return the bitmap of the first `split` rows, and the bits, one a byte, of the `behind` rows after them."""
    whole, rest = divmod(split, 8)
    first = bitmap[: whole + (rest > 0)]
    if rest:
        first = first.copy()
        first[-1] &= (1 << rest) - 1
    return first, np.unpackbits(bitmap[whole:], bitorder="little")[rest : rest + behind]


def _best(scores: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """Places of the `count` largest scores of each row, in no order; all of them if there are no more."""
    if scores.shape[1] <= count:
        return np.broadcast_to(np.arange(scores.shape[1]), scores.shape)
    return np.argpartition(-scores, count - 1, axis=1)[:, :count].astype(np.int64)
