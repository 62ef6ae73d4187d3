"""Items that are added together: which are refused, which wait, which enter, and with what record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from attributary.attribution.snapshot import Snapshot
from attributary.attribution.types import Limits
from attributary.bundle.items import ItemRecord
from attributary.errors import (
    AlreadyExistsError,
    AttributaryError,
    InvalidArgumentError,
    OverloadedError,
    PreconditionError,
)

from .change import AddResult, now
from .entry import SAME_COSINE, Entrance, Placed, Quota, Terms, Verdict, group_of
from .entry import place as place_items
from .items import NO_LICENCE, Embedder, NewItem, check_item
from .journal.records import Added, Entry, left_by_name


class Delivery:
    """One call of `Store.add`: `screen`, `place`, `judge`. The writer's mutex is held for all but the long `place`."""

    def __init__(self, items: Sequence[NewItem], who: str, why: str, terms: Terms) -> None:
        self._items, self._who, self._why, self._terms = items, who, why, terms
        self._outcomes: list[AttributaryError | None] = [None] * len(items)
        self._revisions = [0] * len(items)
        self._waiting = [""] * len(items)
        self._placed: list[Placed] = []
        self._places: list[int] = []  # of what was placed, among the items
        self._fresh: set[int] = set()  # those with an id that nothing has
        self._entering: list[Placed] = []
        self._records: list[ItemRecord] = []
        self._back: list[int] = []  # ids of those that bring a deleted item back
        self.held: list[Added] = []

    @property
    def new(self) -> int:
        """How many items are there that were not before, waiting or not."""
        return len(self._records) + len(self.held)

    def screen(
        self, snapshot: Snapshot, entries: Sequence[Entry], waits: Mapping[int, Added], limits: Limits
    ) -> bool:
        """Refuse what can be refused without a look at its picture; say whether anything new is left."""
        for place, item in enumerate(self._items):
            try:
                check_item(item, limits)
                if (waiting := waits.get(item.id)) is not None:
                    _check_held(item, waiting, None)
                elif not _revision_of(snapshot, entries, item, None):
                    self._fresh.add(place)
            except (InvalidArgumentError, AlreadyExistsError) as error:
                self._outcomes[place] = error
        return bool(self._fresh)

    def place(self, embedder: Embedder, quota: Quota) -> None:
        """Read and embed the items; of new ones no more than the quota has."""
        prepared, taken = [], set[int]()
        for place, item in enumerate(self._items):
            if self._outcomes[place] is not None:
                continue
            counts = place in self._fresh and item.id not in taken
            try:
                if counts:
                    quota.take()
                prepared.append(embedder.prepare(item))
                self._places.append(place)
                taken.add(item.id)
            except OverloadedError as error:
                self._outcomes[place] = error
            except InvalidArgumentError as error:
                self._outcomes[place] = error
                if counts:
                    quota.give_back()
        chosen = [self._items[place] for place in self._places]
        self._placed = place_items(embedder, chosen, prepared, self._terms)

    def judge(
        self,
        snapshot: Snapshot,
        entries: Sequence[Entry],
        waits: Mapping[int, Added],
        entrance: Entrance,
        quota: Quota,
    ) -> None:
        """Say what becomes of each item; `waits` are those of earlier deliveries, by id."""
        together: dict[int, NewItem] = {}
        left = left_by_name(entries)
        for place, one in zip(self._places, self._placed, strict=True):
            item = one.item
            try:
                if item.id in together:
                    _check_repeated(item, together[item.id])
                elif earlier := _revision_of(snapshot, entries, item, one.vector):
                    self._revisions[place] = earlier
                elif (waiting := waits.get(item.id)) is not None:
                    _check_held(item, waiting, one.vector)
                    self._waiting[place] = waiting.held
                else:
                    verdict = entrance.judge(snapshot, one, self._terms, self._entering, left)
                    record = self._record(snapshot, item, verdict.like)
                    # Another delivery may have used it up meanwhile.
                    quota.take()
                    together[item.id] = item
                    self._waiting[place] = verdict.held
                    if verdict.held:
                        self.held.append(self._kept_waiting(snapshot, one, record, verdict))
                    else:
                        self._records.append(record)
                        self._entering.append(one)
                        self._back += [item.id] if verdict.back else []
            except (InvalidArgumentError, AlreadyExistsError, OverloadedError, PreconditionError) as error:
                self._outcomes[place] = error

    def entering(self) -> Added | None:
        """The change that lets in what need not wait; None if there is nothing."""
        if not self._records:
            return None
        vectors = np.stack([one.vector for one in self._entering])
        looks = np.stack([one.newcomer.look for one in self._entering])
        return Added(
            now(), self._who, self._why, tuple(self._records), vectors, looks, back=tuple(self._back)
        )

    def result(self, revision: int) -> AddResult:
        """What became of the items, `revision` being the bundle's now."""
        for place in self._places:
            if self._outcomes[place] is None:
                self._revisions[place] = self._revisions[place] or revision
        return AddResult(self._outcomes, revision, self._revisions, self._waiting)

    def _record(self, snapshot: Snapshot, item: NewItem, like: int | None) -> ItemRecord:
        """What is known of an item; it joins the group that it names, else that of row `like`, else it opens one."""
        items, together = snapshot.bundle.items, self._records
        if (named := item.near_dup_of) is not None:
            beside = (len(items) + at for at, record in enumerate(together) if record.id == named)
            like = next(beside, None if named in snapshot.deleted else items.row_of(named))
            if like is None:
                raise _no_such(named)
        group = group_of(snapshot, like, together)
        return ItemRecord(
            item.id, item.caption, item.creator, item.creator_url, item.licence or NO_LICENCE, item.uri, group
        )

    def _kept_waiting(
        self, snapshot: Snapshot, placed: Placed, record: ItemRecord, verdict: Verdict
    ) -> Added:
        items = snapshot.bundle.items
        like = None if verdict.like is None or verdict.like >= len(items) else items.id_of(verdict.like)
        look, vector = placed.newcomer.look[None], placed.vector[None]
        return Added(now(), self._who, self._why, (record,), vector, look, verdict.held, like)


def _revision_of(
    snapshot: Snapshot, entries: Sequence[Entry], item: NewItem, vector: NDArray[np.float16] | None
) -> int:
    """Return the revision of the change that added this very item before (its reply was lost), 0 if its id is free.

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


def _check_repeated(item: NewItem, other: NewItem) -> None:
    if item != other:
        raise _exists(item, "another item beside it has the same id")


def _check_held(item: NewItem, there: Added, vector: NDArray[np.float16] | None) -> None:
    """Raise AlreadyExistsError if an item that waits under this id is another one; `vector` as in `_revision_of`."""
    _check_facts(item, there.items[0], there.vectors[0], vector)


def _check_same(snapshot: Snapshot, row: int, item: NewItem, vector: NDArray[np.float16] | None) -> None:
    items = snapshot.bundle.items
    there = items.record(row)
    if item.near_dup_of is not None:
        # Without one it may have joined a group for its looks.
        other = items.row_of(item.near_dup_of)
        # Of one that has been deleted since, and compacted away, nothing is left to compare.
        if other is None and item.near_dup_of not in snapshot.deleted:
            raise _no_such(item.near_dup_of)
        if other is not None and items.near_dup_group(other) != there.near_dup_group:
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
    if vector is not None and not float(stored.astype(np.float32) @ vector.astype(np.float32)) >= SAME_COSINE:
        raise _exists(item, "it has another picture")


def _no_such(named: int) -> InvalidArgumentError:
    return InvalidArgumentError("item.near_dup_of", f"no such item: {named}")


def _exists(item: NewItem, what: str) -> AlreadyExistsError:
    return AlreadyExistsError("item", str(item.id), what)
