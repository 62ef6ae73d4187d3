"""Whether an index that was not built with the bundle still finds what the golden queries must find."""

from __future__ import annotations

import numpy as np

from attributary.bundle.bundle import Bundle

from .base import VectorIndex

# Codes trained elsewhere miss other items than the bundle's own; losing one expected item in ten is another matter.
MIN_RECALL = 0.9
_SIMILARITY_TOLERANCE = 2e-3


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
