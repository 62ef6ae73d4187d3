"""Deleted items stay gone: from what comes back under another id, and from bundles before and after this one.

An opt-out must not wait for the last caller of a bundle that was replaced, nor end with one that is built anew.
Looks of deleted items are kept for the sum of shares, in the journal's bundle and through compactions; only erasing
takes them. Compared as a query's picture is (`attributary.pictures.recognise`, `framed`), not as near duplicates are:
the same thing drawn by two houses is no return.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from attributary.attribution.prepare import Preparer
from attributary.attribution.snapshot import Snapshot
from attributary.bundle.items import LOOK
from attributary.pictures.framed import framed
from attributary.pictures.looks import mirror_image
from attributary.pictures.recognise import Known, Shown

from .journal.records import Changes

# Levels that what stands out may differ by: one disc in two colours is no copy. Copies were within 16.
_COLOUR = 24
# Ids beyond are hashes, or of one database: two corpora that have one mean the same picture by it.
_NUMBERED: Final = 2**32


@dataclass(frozen=True, slots=True)
class Gone:
    """Rows of deleted items that nobody has brought back, ascending, and the looks of the last of them.

    Of a bundle's own rows looks may not be known.
    """

    rows: NDArray[np.int64]
    known: Known

    @classmethod
    def of(
        cls, snapshot: Snapshot, built: NDArray[np.int8], added: NDArray[np.int8], creator: int | None = None
    ) -> Gone:
        """`built` and `added`, int8 [N, *LOOK], are looks of the bundle's own rows, or none, and of those behind.

        `creator` is the code of one whose items alone are meant.
        """
        dead = np.zeros(0, np.int64) if snapshot.alive is None else np.flatnonzero(~snapshot.alive)
        rows = dead[~np.isin(dead, snapshot.replaced)]
        if creator is not None:
            rows = rows[snapshot.bundle.items.creator_of_row[rows] == creator]
        split = len(snapshot.bundle.vectors)
        own, behind = rows[rows < split], rows[rows >= split]
        looks = added[behind - split]
        return cls(rows, Known.of(np.concatenate([built[own], looks]) if len(built) else looks))

    @classmethod
    def built(cls, snapshot: Snapshot, creator: int | None = None) -> Gone:
        """`of`, where looks of the bundle's own rows are at hand alone."""
        none, built = np.zeros((0, *LOOK), np.int8), snapshot.bundle.looks
        behind = np.zeros((len(snapshot.added), *LOOK), np.int8)
        return cls.of(snapshot, none if built is None else built, behind, creator)

    def shown(self, pixels: NDArray[np.uint8], seen: NDArray[np.uint8] | None) -> list[int]:
        """Rows of those whose picture this is, uint8 [S, S, 3], or lies within its overview's margins."""
        if not len(self.known.looks):
            return []
        found = Shown(pixels).closest(self.known, colour=_COLOUR)
        if not found.size and seen is not None:
            found = framed(seen, len(pixels), self.known, colour=_COLOUR)
        return self._rows(found)

    def like(self, look: NDArray[np.int8]) -> list[int]:
        """Rows of those whose picture has this look, int8 [*LOOK]: of a picture that is gone itself."""
        return self._rows(Shown.of_look(look).closest(self.known, colour=_COLOUR))

    def mirrored(self, look: NDArray[np.int8]) -> list[int]:
        """Rows of those whose picture is the mirror image, left for right, of one with this look, int8 [*LOOK]."""
        return self.like(mirror_image(look))

    def again(self, looks: NDArray[np.int8]) -> NDArray[np.int64]:
        """Which of some looks, int8 [N, *LOOK], are of one of these pictures; rows ascending."""
        others = Known.of(looks)
        found = [Shown.of_look(look).closest(others, colour=_COLOUR) for look in self.known.looks]
        return np.unique(np.concatenate([np.zeros(0, np.int64), *found]))

    def among(self, rows: Iterable[int]) -> list[int]:
        """Those of some rows that are deleted."""
        # Few of them among many, which are in order.
        wanted = sorted(set(rows))
        places = np.searchsorted(self.rows, np.array(wanted, np.int64)).tolist()
        return [
            row
            for row, at in zip(wanted, places, strict=True)
            if at < len(self.rows) and self.rows[at] == row
        ]

    def _rows(self, found: NDArray[np.int64]) -> list[int]:
        rows: list[int] = self.rows[len(self.rows) - len(self.known.looks) + found].tolist()
        return rows


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
    if gone:
        changes = Changes(snapshot.revision, snapshot.bundle.manifest.encoder.dim)
        changes.deleted.update(gone)
        engine.snapshot = snapshot.apply(changes)
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
