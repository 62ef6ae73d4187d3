"""Additions repeated because their reply was lost, as opposed to different items under an id that is taken."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from attributary.attribution.snapshot import Snapshot
from attributary.bundle.items import ItemRecord
from attributary.errors import AlreadyExistsError, InvalidArgumentError

from .items import NO_LICENCE, NewItem
from .journal.records import Added, Entry

# Pictures are not kept; the same one comes out a little different beside others, another one does not.
_SAME_COSINE: Final = 0.9995


def revision_of(
    snapshot: Snapshot, entries: Sequence[Entry], item: NewItem, vector: NDArray[np.float16] | None
) -> int:
    """Return the revision of the change that added this very item before, 0 if its id is free.

    `vector`, fp16 [D], is what the item would be added with; None leaves its picture out. Raises AlreadyExistsError
    for another item's id, and InvalidArgumentError for that of a deleted one.
    """
    if item.id in snapshot.deleted:
        raise InvalidArgumentError(
            "item.id", f"{item.id} was deleted at {snapshot.deleted[item.id]}; ids are not used again"
        )
    row = snapshot.bundle.items.row_of(item.id)
    if row is None:
        return 0
    entry = next((entry for entry in reversed(entries) if entry.kind == "add" and item.id in entry.ids), None)
    if entry is None:
        raise _exists(item, "it is part of the bundle as it was built")
    _check_same(snapshot, row, item, vector)
    return entry.revision


def check_repeated(item: NewItem, other: NewItem) -> None:
    """Raise AlreadyExistsError if two items that are added together have one id and differ."""
    if item != other:
        raise _exists(item, "another item beside it has the same id")


def check_held(item: NewItem, there: Added, vector: NDArray[np.float16] | None) -> None:
    """Raise AlreadyExistsError if an item that waits under this id is another one; `vector` as in `revision_of`."""
    _check_facts(item, there.items[0], there.vectors[0], vector)


def _check_same(snapshot: Snapshot, row: int, item: NewItem, vector: NDArray[np.float16] | None) -> None:
    items = snapshot.bundle.items
    there = items.record(row)
    if item.near_dup_of is not None:
        # Without one it may have joined a group for its looks.
        other = items.row_of(item.near_dup_of)
        # Of one that has been deleted since, and compacted away, nothing is left to compare.
        gone = other is None and item.near_dup_of in snapshot.deleted
        if not gone and (other is None or items.near_dup_group(other) != there.near_dup_group):
            raise _exists(item, "it has another near_dup_of")
    _check_facts(item, there, snapshot.vectors_of(np.array([row], np.int64))[0], vector)


def _check_facts(
    item: NewItem, there: ItemRecord, stored: NDArray[np.float16], vector: NDArray[np.float16] | None
) -> None:
    for name, wanted in (
        ("caption", item.caption),
        ("creator", item.creator),
        ("creator_url", item.creator_url),
        ("licence", item.licence or NO_LICENCE),
        ("uri", item.uri),
    ):
        if getattr(there, name) != wanted:
            raise _exists(item, f"it has another {name}")
    if (
        vector is not None
        and not float(stored.astype(np.float32) @ vector.astype(np.float32)) >= _SAME_COSINE
    ):
        raise _exists(item, "it has another picture")


def _exists(item: NewItem, what: str) -> AlreadyExistsError:
    return AlreadyExistsError("item", str(item.id), what)
