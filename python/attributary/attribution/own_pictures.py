"""An item's own picture: whoever asks with it sees the item first, and no embedding is nearer to the item than it.

A student's item vectors say what a generated picture owes to an item, not where the item's own picture would lie. So
the picture itself is recognised (`Snapshot.showing`), and its item is taken to be as similar as the best of all
candidates, and as one that is known for sure. The shares then follow from the one formula, and add up as ever
(docs/decisions/own-pictures.md).

Where items have lengths, an embedding that leaves out what pictures have in common can be half as near again, and gets
one item most of the answer. It is answered as if it were as far as pictures are: all its similarities become smaller,
by one factor (`building/build.py` says what the bundle knows of pictures; docs/gaming.md what it is worth).
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


def is_bare(snapshot: Snapshot, prepared: Prepared) -> bool:
    """Whether a query is an embedding that somebody may have chosen, in a bundle that limits these."""
    bare = prepared.embedding is not None and prepared.pixels is None
    return bare and snapshot.bundle.manifest.encoder.own_cosine > 0


def factors(snapshot: Snapshot, members: Sequence[Prepared], candidates: Candidates) -> NDArray[np.float32]:
    """What the similarities of each query are multiplied by, float32 [Q]: 1 where it may be some picture's."""
    assert candidates.similarity is not None
    found = np.ones(len(members), np.float32)
    for at, member in enumerate(members):
        if is_bare(snapshot, member):
            there = candidates.rows[at] >= 0
            rest = snapshot.last_of(candidates.rows[at][there]).astype(np.float64)
            lengths = np.sqrt(np.maximum(1.0 - rest * rest, 1e-6))
            nearest = (candidates.similarity[at][there] / lengths).max(initial=0.0)
            found[at] = min(1.0, snapshot.bundle.manifest.encoder.own_cosine / max(nearest, 1e-9))
    return found
