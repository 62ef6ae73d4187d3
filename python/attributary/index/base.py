"""What a vector index is, unit vectors in, rows of the nearest items out; and whether it finds the golden queries'."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from attributary.bundle.bundle import Bundle

# Codes trained elsewhere miss other items than the bundle's own; losing one expected item in ten is another matter.
MIN_RECALL = 0.9
_SIMILARITY_TOLERANCE = 2e-3


class VectorIndex(Protocol):
    """Finds candidates by inner product. Rows are int64 positions in the bundle's vector store, from 0."""

    @property
    def dim(self) -> int:
        """D, dimensions of a vector."""
        ...

    @property
    def size(self) -> int:
        """How many rows are indexed."""
        ...

    def search(
        self, queries: NDArray[np.float32], count: int, allowed: NDArray[np.uint8] | None = None
    ) -> NDArray[np.int64]:
        """Return candidate rows, int64 [B, count], in no promised order, -1 where there are fewer.

        `queries` is float32 [B, D]; `allowed` a bitmap over the rows, uint8 [ceil(size / 8)], least significant bit
        first: rows whose bit is 0 are never returned. Candidates are meant to be re-scored exactly by the caller.
        """
        ...


def golden_recall(index: VectorIndex, bundle: Bundle) -> float:
    """Share of the golden queries' expected items that the index proposes, or that something as similar displaces.

    The golden embeddings are searched, R candidates re-scored exactly: what a caller would get.
    """
    golden = bundle.golden
    vectors = bundle.vectors
    queries = np.ascontiguousarray(golden.embeddings, np.float32)
    expected = golden.ids.shape[1]
    count = min(max(bundle.manifest.index.candidates, expected), len(bundle.items))
    candidates = index.search(queries, count)
    found = 0
    for query, rows, ids, wanted in zip(queries, candidates, golden.ids, golden.similarity, strict=True):
        rows = rows[rows >= 0]
        similarity = vectors[rows].astype(np.float32) @ query
        best = np.argsort(-similarity, kind="stable")[:expected]
        last = similarity[best[-1]] if best.size == expected else -np.inf
        named = {bundle.items.id_of(int(row)) for row in rows[best]}
        found += sum(
            int(item) in named or last >= value - _SIMILARITY_TOLERANCE
            for item, value in zip(ids, wanted, strict=True)
        )
    return found / golden.ids.size
