"""An embedding without its picture is as near to an item as the item's own picture at most.

Where items have lengths, an embedding that leaves out what pictures have in common can be half as near again, and gets
one item most of the answer. It is answered as if it were as far as pictures are: all its similarities become smaller,
by one factor (`building/own_cosine.py` says what the bundle knows of pictures; docs/gaming.md what it is worth).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .snapshot import Candidates, Snapshot
from .types import Prepared


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
