"""Who may enter a bundle, and with what: so that an addition earns what its picture earns, and no more.

- A picture that looks like an older item's is that item's near duplicate, whatever its caption says: both share the
  credit of one. If somebody who contributes brings another creator's picture it is held until the operator has looked:
  the older item has precedence.
- Somebody new, or a picture that shows nothing, is held likewise.
- The caption of a contribution moves it from where its picture alone stands by a part of the way only: words are free.
- A contributor adds so many items a day.
- The picture of a deleted item, and any of a creator who was deleted by name, is refused, or waits if somebody
  contributes it, unless the operator says that it may come back.

The operator, at the command line or with an admin token, is held to the first rule and the last, and is never made to
wait.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from attributary.attribution.snapshot import Snapshot
from attributary.bundle.added_items import GrowingArray
from attributary.bundle.items import LOOK, ItemRecord
from attributary.errors import OverloadedError, PreconditionError
from attributary.pictures import ReadPicture
from attributary.pictures.looks import Newcomer, is_flat

from .gone import Gone
from .held import DAY, Came
from .items import Embedder, NewItem
from .journal.records import Added, Entry

# A picture and int64 [T], as `Embedder.prepare` returns them.
Prepared: TypeAlias = tuple[ReadPicture, NDArray[np.int64]]
# One item embedded twice, beside others; pictures that differ at all are farther apart.
SAME_COSINE: Final = 0.9995
_BLOCK: Final = 65_536


@dataclass(frozen=True, slots=True)
class Terms:
    """What is asked of additions."""

    # Copies of others' pictures, new creators, pictures that show nothing: until they are released.
    hold: bool = False
    # Part of the way that a caption may move an item from where its picture stands.
    caption_weight: float = 1.0
    items_a_day: int = 0  # 0: any number
    bring_back: bool = False  # pictures of deleted items may come back


OPERATOR: Final = Terms()
CONTRIBUTOR: Final = Terms(hold=True, caption_weight=0.25, items_a_day=100)


@dataclass(frozen=True, slots=True)
class Placed:
    """An item that was looked at: its vector, fp16 [D], and what it looks like."""

    item: NewItem
    vector: NDArray[np.float16]  # what it is added with
    full: NDArray[np.float16]  # with the whole weight of its caption
    newcomer: Newcomer
    picture: ReadPicture | None = None  # None of one that has waited: only its look is kept


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of an item: `like` is the row of the older item that it shares credit with, None for none."""

    like: int | None = None
    held: str = ""  # why it waits; empty if it enters
    back: bool = False  # it brings a deleted item back


class Entrance:
    """Judges additions to one bundle. The caller holds the writer's mutex."""

    def __init__(self, snapshot: Snapshot, looks: NDArray[np.int8]) -> None:
        """`looks`, int8 [T, *LOOK], are those of the snapshot's added rows."""
        built = snapshot.bundle.looks
        self._built = np.zeros((0, *LOOK), np.int8) if built is None else built
        self._first = len(snapshot.bundle.vectors)
        self._added = GrowingArray(np.ascontiguousarray(looks))
        self._looks = self._added.append(np.zeros((0, *LOOK), np.int8))
        self._gone: tuple[tuple[int, int], Gone] | None = None

    @property
    def looks(self) -> NDArray[np.int8] | None:
        """What all rows look like, int8 [N + T, *LOOK]; None if that is known of none."""
        if not len(self._built):
            if not self._looks.any():
                return None
            return np.concatenate([np.zeros((self._first, *LOOK), np.int8), self._looks])
        return np.concatenate([self._built, self._looks])

    def entered(self, looks: NDArray[np.int8]) -> None:
        """Remember rows that were added behind all others."""
        self._looks = self._added.append(looks)

    def judge(
        self,
        snapshot: Snapshot,
        placed: Placed,
        terms: Terms,
        together: Sequence[Placed],
        left: Container[str],
    ) -> Verdict:
        """Say what becomes of an item; `together` are those that are added right before it.

        Rows behind the snapshot's own are those of `together`, in their order. `left` are creators who were deleted by
        name. Raises PreconditionError where it would bring a deleted item or creator back.
        """
        creator = placed.item.creator
        # Also where an item of theirs was brought back: who consented to that one has not consented to all.
        has_left = creator in left
        alike = _same_vector(snapshot, placed.full)
        older = self._older(snapshot, placed, together, alike)
        gone = self._back(snapshot, placed, alike)
        if terms.hold:
            if is_flat(placed.newcomer.look):
                return Verdict(held="the picture shows nothing")
            for row in gone or self._gone_of(snapshot).among(older):
                if _is_nameless(snapshot, row):
                    # It has no id to be kept by: 0 may be somebody's.
                    return Verdict(held="looks like an item that was deleted")
                return Verdict(row, f"looks like item {_id(snapshot, row, together)}, which was deleted")
            for row in older:
                who = _creator(snapshot, row, together)
                if who != placed.item.creator:
                    what = f"item {_id(snapshot, row, together)} of another creator, which is older"
                    return Verdict(row, f"looks like {what}")
            declared = placed.item.near_dup_of
            if declared is not None and declared not in (_id(snapshot, row, together) for row in older):
                return Verdict(held="is declared a near duplicate and does not look like it")
            if has_left:
                return Verdict(held="the creator was deleted by name")
            if not snapshot.filters.count_of(creator):
                return Verdict(held="the creator is new here")
        elif gone and not terms.bring_back:
            raise PreconditionError("item.image", _returns(snapshot, gone[0], "add it"))
        elif has_left and not terms.bring_back:
            raise PreconditionError("item.creator", _left("add it", creator))
        return Verdict(next(iter(older), None), back=has_left or bool(gone))

    def let_in(
        self, snapshot: Snapshot, waited: Sequence[Added], bring_back: bool, left: Container[str]
    ) -> tuple[list[ItemRecord], list[int]]:
        """What has waited, one item a record, as it enters: in the group of the oldest item that it looks like.

        Judged anew: what waits was compared with nothing else that waits, and others have entered, or gone, since.
        Also returns the ids of those that bring somebody or something back; raises PreconditionError unless they may.
        """
        back = []
        records, together = list[ItemRecord](), list[Placed]()
        for one in waited:
            item, look = one.items[0], np.zeros(LOOK, np.int8) if one.looks is None else one.looks[0]
            new = NewItem(item.id, b"", item.caption, item.creator)
            placed = Placed(new, one.vectors[0], one.vectors[0], Newcomer.of_look(look))
            row = None if one.like is None else snapshot.bundle.items.row_of(one.like)
            gone = self._back(snapshot, placed, ())
            gone = gone or self._gone_of(snapshot).among(() if row is None else (row,))
            if gone and not bring_back:
                raise PreconditionError(f"item {item.id}", _returns(snapshot, gone[0], "release it"))
            has_left = item.creator in left
            if has_left and not bring_back:
                raise PreconditionError(f"item {item.id}", _left("release it", item.creator))
            back += [item.id] if gone or has_left else []
            if row is None:
                alike = _same_vector(snapshot, placed.full)
                row = next(iter(self._older(snapshot, placed, together, alike)), None)
            records.append(replace(item, near_dup_group=group_of(snapshot, row, records)))
            together.append(placed)
        return records, back

    def _gone_of(self, snapshot: Snapshot) -> Gone:
        """What was deleted; looks are read again only where that has changed."""
        state = (len(snapshot.deleted), len(snapshot.replaced))
        if self._gone is None or self._gone[0] != state:
            self._gone = state, Gone.of(snapshot, self._built, self._looks)
        return self._gone[1]

    def _back(self, snapshot: Snapshot, placed: Placed, alike: Iterable[int]) -> list[int]:
        """Rows of deleted items that an item would bring back, ascending; those `alike` have its vector.

        As a mirror image those of others alone, as far as that is known: whoever draws an arrow draws it both ways.
        """
        gone, picture, look = self._gone_of(snapshot), placed.picture, placed.newcomer.look
        if picture is None:
            found = gone.like(look)
        else:
            found = gone.shown(picture.pixels, picture.overview) or gone.among(alike)
        items, creator = snapshot.bundle.items, placed.item.creator
        return found or [
            row for row in gone.mirrored(look) if _is_nameless(snapshot, row) or items.creator(row) != creator
        ]

    def _older(
        self, snapshot: Snapshot, placed: Placed, together: Sequence[Placed], alike: Sequence[int]
    ) -> list[int]:
        """Rows that an item looks like, oldest first: of its creator upright, of others mirrored or turned as well."""
        newcomer, creator = placed.newcomer, placed.item.creator
        found: dict[int, bool] = {}
        beside = np.array([other.newcomer.look for other in together], np.int8).reshape(-1, *LOOK)
        behind = self._first + len(self._looks)
        for first, known in ((0, self._built), (self._first, self._looks), (behind, beside)):
            found |= {first + match.row: match.upright for match in newcomer.among(known)}
        rows = {
            row for row, upright in found.items() if upright or _creator(snapshot, row, together) != creator
        }
        return sorted(rows.union(alike))


def place(
    embedder: Embedder, items: Sequence[NewItem], prepared: Sequence[Prepared], terms: Terms
) -> list[Placed]:
    """Look at prepared items: where they stand, and what they look like."""
    full = embedder.embed(prepared)
    vectors = full
    if terms.caption_weight < 1 and len(prepared):
        no_words = np.zeros(0, np.int64)
        bare = embedder.embed([(picture, no_words) for picture, _ in prepared]).astype(np.float32)
        moved = bare + terms.caption_weight * (full.astype(np.float32) - bare)
        vectors = (moved / np.linalg.norm(moved, axis=1, keepdims=True)).astype(np.float16)
    return [
        Placed(item, vector, whole, Newcomer(picture.pixels), picture)
        for item, vector, whole, (picture, _) in zip(items, vectors, full, prepared, strict=True)
    ]


class Quota:
    """How many more items somebody may add today."""

    def __init__(self, terms: Terms, who: str, entries: Iterable[Entry], came: Iterable[Came]) -> None:
        """`entries` are the bundle's changes, `came` what was held, whatever has become of it."""
        self._said = f"{who} may add {terms.items_a_day} items a day"
        self._left, self._wait_s = math.inf, 1.0
        if not terms.items_a_day:
            return
        now = datetime.now(UTC)
        added = [(entry.at, len(entry.ids)) for entry in entries if entry.kind == "add" and entry.who == who]
        added += [(one.at, 1) for one in came if one.who == who]
        times = [(datetime.fromisoformat(at), count) for at, count in added]
        recent = [(at, count) for at, count in times if at > now - DAY]
        self._left = terms.items_a_day - sum(count for _, count in recent)
        if recent:
            self._wait_s = max((min(recent)[0] + DAY - now).total_seconds(), 1.0)

    def take(self) -> None:
        """Count one item; raises OverloadedError if there may be no more."""
        if self._left < 1:
            raise OverloadedError(self._said, self._wait_s)
        self._left -= 1

    def give_back(self) -> None:
        """Count one item less: it was none."""
        self._left += 1


def group_of(snapshot: Snapshot, row: int | None, together: Sequence[ItemRecord]) -> int:
    """The group of a row, those behind the snapshot's own being `together`'s; None has one of its own."""
    items = snapshot.bundle.items
    if row is None:
        return snapshot.shared.items.fresh_group() + len(together)
    return items.near_dup_group(row) if row < len(items) else together[row - len(items)].near_dup_group


def _same_vector(snapshot: Snapshot, vector: NDArray[np.float16]) -> list[int]:
    """Rows of the same picture with the same words, in a bundle without looks as well."""
    wanted = vector.astype(np.float32)
    split, found = len(snapshot.bundle.vectors), []
    for start in range(0, split, _BLOCK):
        block = snapshot.bundle.vectors[start : start + _BLOCK].astype(np.float32)
        found += (start + np.flatnonzero(block @ wanted >= SAME_COSINE)).tolist()
    return found + (split + np.flatnonzero(snapshot.added32 @ wanted >= SAME_COSINE)).tolist()


def _how(do: str) -> str:
    return f"if it may come back, {do} with bring_back (--bring-back)"


def _left(do: str, creator: str) -> str:
    """What is said of an item of a creator who was deleted by name."""
    return f"is by somebody who was deleted by name; {_how(do)}: {creator}"


def _returns(snapshot: Snapshot, row: int, do: str) -> str:
    """What is said of an item that would bring the one of a row back."""
    how = _how(do)
    if _is_nameless(snapshot, row):
        return f"shows the picture of an item that was deleted before a compaction; {how}"
    number, items = snapshot.bundle.items.id_of(row), snapshot.bundle.items
    return (
        f"shows the picture of item {number}, which was deleted at {snapshot.deleted[number]}; {how}; "
        f"its creator was {items.creator(row)}"
    )


def _is_nameless(snapshot: Snapshot, row: int) -> bool:
    """Whether a row is of an item that was deleted before a compaction."""
    withheld = snapshot.bundle.items.withheld
    return withheld is not None and row < len(withheld) and bool(withheld[row])


def _creator(snapshot: Snapshot, row: int, together: Sequence[Placed]) -> str:
    rows = len(snapshot.bundle.items)
    return snapshot.bundle.items.creator(row) if row < rows else together[row - rows].item.creator


def _id(snapshot: Snapshot, row: int, together: Sequence[Placed]) -> int:
    rows = len(snapshot.bundle.items)
    return snapshot.bundle.items.id_of(row) if row < rows else together[row - rows].item.id
