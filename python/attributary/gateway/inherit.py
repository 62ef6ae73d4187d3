"""Deletions reach bundles that were replaced and still answer, and those that come in their place.

An opt-out must not wait for the last pinned caller, nor end with a bundle that is built anew.
"""

from __future__ import annotations

import numpy as np

from attributary.attribution.prepare import Preparer
from attributary.attribution.snapshot import Snapshot
from attributary.delta.journal.records import Changes


def inherit_deletions(engine: Preparer, successor: Snapshot, compacted: bool) -> bool:
    """Take out of a bundle what was deleted from the one that came, or was, in its place; False if nothing is left.

    Items go that have the same id and creator, or the id alone if the successor was `compacted` from this bundle: in
    another corpus an id may be somebody else's. So does whatever else this bundle has of creators who were deleted by
    name and have nothing left there. In memory.
    """
    snapshot = engine.snapshot
    gone = {
        item_id: when
        for item_id, when in successor.deleted.items()
        if item_id not in snapshot.deleted and _has(snapshot, item_id, None if compacted else successor)
    }
    gone |= _of_those_who_left(snapshot, successor)
    if len(gone) >= snapshot.item_count:
        return False
    if gone:
        changes = Changes(snapshot.revision, snapshot.bundle.manifest.encoder.dim)
        changes.deleted.update(gone)
        engine.snapshot = snapshot.apply(changes)
    return True


def _has(snapshot: Snapshot, item_id: int, other: Snapshot | None) -> bool:
    """Whether a snapshot has an item, of the creator that `other`, where given, says."""
    row = snapshot.bundle.items.row_of(item_id)
    if row is None or other is None:
        return row is not None
    other_row = other.bundle.items.row_of(item_id)
    return other_row is not None and snapshot.bundle.items.creator(row) == other.bundle.items.creator(
        other_row
    )


def _of_those_who_left(snapshot: Snapshot, successor: Snapshot) -> dict[int, str]:
    """Items of creators who were deleted from the successor by name: id -> when the last deletion was."""
    items, filters = snapshot.bundle.items, successor.filters
    left = [name for name in filters.former.creators if not filters.count_of(name)]
    codes = [code for name in left if name and (code := items.creator_codes.code(name)) is not None]
    if not codes:
        return {}
    here = np.isin(items.creator_of_row, codes)
    rows = np.flatnonzero(here if snapshot.alive is None else here & snapshot.alive)
    return dict.fromkeys(map(items.id_of, rows.tolist()), max(successor.deleted.values(), default=""))
