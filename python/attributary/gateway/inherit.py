"""Deletions reach bundles that were replaced and still answer: an opt-out must not wait for the last pinned caller."""

from __future__ import annotations

from attributary.attribution.prepare import Preparer
from attributary.attribution.view import View
from attributary.delta.journal.records import Changes


def inherit_deletions(engine: Preparer, successor: View, compacted: bool) -> bool:
    """Take out of a replaced bundle what has been deleted from the one in its place; False if nothing is left of it.

    Only the same items: an id may mean another one in another corpus, unless the successor was `compacted` from this
    bundle. In memory, for the bundle's last minutes.
    """
    view = engine.view
    gone = {
        item_id: when
        for item_id, when in successor.deleted.items()
        if item_id not in view.deleted and _has(view, item_id, None if compacted else successor)
    }
    if len(gone) >= view.item_count:
        return False
    if gone:
        changes = Changes(view.revision, view.bundle.manifest.encoder.dim)
        changes.deleted.update(gone)
        engine.view = view.apply(changes)
    return True


def _has(view: View, item_id: int, other: View | None) -> bool:
    """Whether a view has an item, the very one that `other`, where given, has under its id."""
    row = view.bundle.items.row_of(item_id)
    if row is None or other is None:
        return row is not None
    other_row = other.bundle.items.row_of(item_id)
    return other_row is not None and view.bundle.items.record(row) == other.bundle.items.record(other_row)
