"""Deletions reach bundles that were replaced and still answer: an opt-out must not wait for the last pinned caller."""

from __future__ import annotations

from attributary.attribution.prepare import Preparer
from attributary.attribution.snapshot import Snapshot
from attributary.delta.journal.records import Changes


def inherit_deletions(engine: Preparer, successor: Snapshot, compacted: bool) -> bool:
    """Take out of a replaced bundle what has been deleted from the one in its place; False if nothing is left of it.

    Only the same items: an id may mean another one in another corpus, unless the successor was `compacted` from this
    bundle. In memory, for the bundle's last minutes.
    """
    snapshot = engine.snapshot
    gone = {
        item_id: when
        for item_id, when in successor.deleted.items()
        if item_id not in snapshot.deleted and _has(snapshot, item_id, None if compacted else successor)
    }
    if len(gone) >= snapshot.item_count:
        return False
    if gone:
        changes = Changes(snapshot.revision, snapshot.bundle.manifest.encoder.dim)
        changes.deleted.update(gone)
        engine.snapshot = snapshot.apply(changes)
    return True


def _has(snapshot: Snapshot, item_id: int, other: Snapshot | None) -> bool:
    """Whether a snapshot has an item, the very one that `other`, where given, has under its id."""
    row = snapshot.bundle.items.row_of(item_id)
    if row is None or other is None:
        return row is not None
    other_row = other.bundle.items.row_of(item_id)
    return other_row is not None and snapshot.bundle.items.record(row) == other.bundle.items.record(other_row)
