"""Deletions reach bundles that were replaced and still answer: an opt-out must not wait for the last pinned caller."""

from __future__ import annotations

from attributary.attribution.prepare import Preparer
from attributary.attribution.view import View
from attributary.delta.journal.records import Changes


def inherit_deletions(engine: Preparer, successor: View) -> bool:
    """Take out of a replaced bundle what has been deleted from the one in its place; False if nothing is left of it.

    Only the same items: an id may mean another one in another corpus. In memory, for the bundle's last minutes.
    """
    view = engine.view
    gone = {
        item_id: when
        for item_id, when in successor.deleted.items()
        if item_id not in view.deleted and _is_same(view, successor, item_id)
    }
    if len(gone) >= view.item_count:
        return False
    if gone:
        changes = Changes(view.revision, view.bundle.manifest.encoder.dim)
        changes.deleted.update(gone)
        engine.view = view.apply(changes)
    return True


def _is_same(view: View, successor: View, item_id: int) -> bool:
    row = view.bundle.items.row_of(item_id)
    if row is None:
        return False
    new_row = successor.bundle.items.row_of(item_id)
    if new_row is None:
        # Deleted before its bundle was made: the audit that a compaction hands on has it.
        return True
    return view.bundle.items.record(row) == successor.bundle.items.record(new_row)
