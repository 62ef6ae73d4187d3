"""What was deleted from a bundle stays deleted in those before and after it, under an alias and in what is built anew.

An opt-out must not wait for the last caller of a bundle that was replaced, nor end with one that is built anew.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping
from functools import cache
from typing import Final

import numpy as np

from attributary.attribution.prepare import Preparer
from attributary.attribution.snapshot import Snapshot
from attributary.pictures.recognise import Known

from .gone import Gone
from .journal.records import Changes

# Ids beyond are hashes, or of one database: two corpora that have one mean the same picture by it.
_NUMBERED: Final = 2**32
# A journal and what is deleted in memory change one engine from several threads: neither may undo the other.
_PUTTING: Final = threading.Lock()


def put(engine: Preparer, before: Snapshot, after: Snapshot) -> None:
    """Serve `after`, which was made of `before`; what was deleted from the engine in memory stays deleted."""
    with _PUTTING:
        found = engine.snapshot
        engine.snapshot = after if found is before else _without(after, found.deleted)


def hold(engine: Preparer, deleted: Mapping[int, str]) -> None:
    """Take items out of an engine in memory, by id -> when, whatever else changes it meanwhile."""
    with _PUTTING:
        engine.snapshot = _without(engine.snapshot, deleted)


def _without(snapshot: Snapshot, deleted: Mapping[int, str]) -> Snapshot:
    gone = {item_id: when for item_id, when in deleted.items() if item_id not in snapshot.deleted}
    if not gone:
        return snapshot
    changes = Changes(snapshot.revision, snapshot.bundle.manifest.encoder.dim)
    changes.deleted.update(gone)
    return snapshot.apply(changes)


def inherit_deletions(
    engine: Preparer,
    successor: Snapshot,
    compacted: bool,
    renumbered: bool = False,
    left: Collection[str] = (),
) -> bool:
    """Take out of a bundle what was deleted from the one that came, or was, in its place; False if nothing is left.

    Items go that have the same id and creator, or the id alone if the successor was `compacted` from this bundle or the
    id is large: in another corpus a small one may be somebody else's. Where the successor was compacted since, it knows
    the creator no more, and the picture has to look the same. If this bundle may be `renumbered`, so do items of the
    same creator whose id the successor never had, and whatever shows what a compaction has forgotten. And whatever else
    this bundle has of creators who were deleted by name and have nothing left there; of those in `left`, who were
    deleted by name and came back in part, all but that. In memory.
    """
    snapshot = engine.snapshot
    gone_there = cache(lambda: Gone.built(successor))

    def same(item_id: int) -> bool:
        row, other = (one.bundle.items.row_of(item_id) for one in (snapshot, successor))
        if row is None or compacted or abs(item_id) >= _NUMBERED:
            return row is not None
        if other is not None:
            return snapshot.bundle.items.creator(row) == successor.bundle.items.creator(other)
        looks = snapshot.bundle.looks
        return looks is not None and row < len(looks) and bool(gone_there().like(looks[row]))

    gone = {
        item_id: when
        for item_id, when in successor.deleted.items()
        if item_id not in snapshot.deleted and same(item_id)
    }
    gone |= _of_those_who_left(snapshot, successor, left)
    if renumbered and not compacted:
        gone |= _renumbered(snapshot, successor) | _nameless(snapshot, successor)
    if len(gone) >= snapshot.item_count:
        return False
    hold(engine, gone)
    return True


def _renumbered(snapshot: Snapshot, other: Snapshot) -> dict[int, str]:
    """Items with an id that the other never had, whose creator and picture are those of one that it deleted."""
    items, theirs, looks = snapshot.bundle.items, other.bundle.items, snapshot.bundle.looks
    found: dict[int, str] = {}
    for code in np.unique(theirs.creator_of_row[Gone.built(other).rows]).tolist():
        name = theirs.creator_names[code]
        here = items.creator_codes.code(name) if name else None
        if here is None or looks is None:
            continue
        gone = Gone.built(other, code)
        for row in np.flatnonzero(items.creator_of_row[: len(looks)] == here).tolist():
            item_id = items.id_of(row)
            new = item_id not in snapshot.deleted and item_id not in other.deleted
            if new and theirs.row_of(item_id) is None and (like := gone.like(looks[row])):
                found[item_id] = other.deleted[theirs.id_of(like[0])]
    return found


def _nameless(snapshot: Snapshot, other: Snapshot) -> dict[int, str]:
    """Items that show what was deleted from the other before a compaction, and are nobody's that are there still.

    As in an addition: the picture alone is left of what a compaction has forgotten, whatever id and name come with it.
    """
    items, theirs = snapshot.bundle.items, other.bundle.items
    looks, known, withheld = snapshot.bundle.looks, other.bundle.looks, theirs.withheld
    if looks is None or known is None or withheld is None:
        return {}
    rows = np.flatnonzero(withheld)
    when, found = max(other.deleted.values(), default=""), {}
    for row in Gone(rows, Known.of(known[rows])).again(looks).tolist():
        item_id, creator = items.id_of(row), items.creator(row)
        code = theirs.creator_codes.code(creator)
        theirs_too = theirs.creator_of_row[: len(known)] == (-1 if code is None else code)
        there = np.flatnonzero(theirs_too if other.alive is None else theirs_too & other.alive[: len(known)])
        # The same creator's item with another id, perhaps, that stayed.
        stays = Gone(there, Known.of(known[there])).like(looks[row])
        if item_id not in snapshot.deleted and not stays:
            found[item_id] = when
    return found


def _of_those_who_left(snapshot: Snapshot, successor: Snapshot, by_name: Collection[str]) -> dict[int, str]:
    """Items of creators who were deleted from the successor by name: id -> when the last deletion was."""
    items, filters = snapshot.bundle.items, successor.filters
    left = {name for name in filters.former.creators if not filters.count_of(name)}.union(by_name)
    codes = [code for name in left if name and (code := items.creator_codes.code(name)) is not None]
    if not codes:
        return {}
    here = np.isin(items.creator_of_row, codes)
    rows = np.flatnonzero(here if snapshot.alive is None else here & snapshot.alive)
    ids = (
        items.id_of(row) for row in rows.tolist() if not _has(successor, items.id_of(row), items.creator(row))
    )
    return dict.fromkeys(ids, max(successor.deleted.values(), default=""))


def _has(snapshot: Snapshot, item_id: int, creator: str) -> bool:
    """Whether a creator has an item that is there."""
    items = snapshot.bundle.items
    row = items.row_of(item_id)
    return (
        row is not None
        and items.creator(row) == creator
        and (snapshot.alive is None or bool(snapshot.alive[row]))
    )
