"""Whoever asks with an item's own picture sees that item first (docs/decisions/own-pictures.md).

A student's item vectors say what a generated picture owes to an item, not where the item's own picture would lie. So
the picture itself is recognised (`Snapshot.showing`), and its item is taken to be as similar as the best of all
candidates, and as one that is known for sure. The shares then follow from the one formula, and add up as ever.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from attributary import kernels

from .snapshot import Candidates, Snapshot
from .types import Prepared

# The flag's threshold and its margin: from their sum on shares are whole.
_SURE = [kernels.CALIBRATION.index("foreign_below"), kernels.CALIBRATION.index("margin")]


def put_first(
    snapshot: Snapshot,
    members: Sequence[Prepared],
    candidates: Candidates,
    embeddings: NDArray[np.float32] | None,
    calibration: NDArray[np.float32],
) -> Candidates:
    """Candidates of the whole, [Q, R], with the items that each query shows before all others.

    Those that were no candidates take the places of the last. `calibration` is the kernels', float32 [Q, 9].
    """
    if candidates.similarity is None:
        assert embeddings is not None
        candidates = snapshot.ranked(embeddings, candidates.rows)
    assert candidates.similarity is not None
    rows, similarity = candidates.rows.copy(), candidates.similarity.copy()
    for at, member in enumerate(members):
        shown = member.showing[: rows.shape[1]]
        absent = shown[~np.isin(shown, rows[at])]
        # Empty places first, then those of the faintest.
        places = np.argsort(np.where(rows[at] < 0, -np.inf, similarity[at]), kind="stable")
        free = places[~np.isin(rows[at, places], shown)][: absent.size]
        rows[at, free], similarity[at, free] = absent, -np.inf
        own = np.flatnonzero(np.isin(rows[at], shown))
        others = np.delete(similarity[at], own)[np.delete(rows[at], own) >= 0]
        least = np.float32(calibration[at, _SURE].sum())
        if others.size:
            least = max(least, np.nextafter(others.max(), np.float32(np.inf)))
        # Of several that have one picture, the one that the query is nearest to comes first.
        nearest = own[np.argmax(similarity[at, own])]
        similarity[at, own] = np.maximum(similarity[at, own], least)
        if own.size > 1:
            similarity[at, nearest] = np.nextafter(similarity[at, own].max(), np.float32(np.inf))
    return Candidates(rows, similarity)
