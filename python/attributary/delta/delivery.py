"""Items that are added together: which are refused, which wait, which enter, and with what record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

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

from .entry import Entrance, Placed, Quota, Terms, Verdict
from .entry import place as place_items
from .items import NO_LICENCE, Embedder, NewItem, check_item
from .journal.records import Added, Entry, left_by_name
from .repeats import check_held, check_repeated, revision_of
from .results import AddResult
from .words import now


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
                    check_held(item, waiting, None)
                elif not revision_of(snapshot, entries, item, None):
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
                    check_repeated(item, together[item.id])
                elif earlier := revision_of(snapshot, entries, item, one.vector):
                    self._revisions[place] = earlier
                elif (waiting := waits.get(item.id)) is not None:
                    check_held(item, waiting, one.vector)
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
        if item.near_dup_of is None and like is not None:
            group = (
                items.near_dup_group(like)
                if like < len(items)
                else together[like - len(items)].near_dup_group
            )
        elif item.near_dup_of is None:
            group = snapshot.shared.items.fresh_group() + len(together)
        else:
            row = items.row_of(item.near_dup_of)
            beside = next((record for record in together if record.id == item.near_dup_of), None)
            if beside is None and (row is None or item.near_dup_of in snapshot.deleted):
                raise InvalidArgumentError("item.near_dup_of", f"no such item: {item.near_dup_of}")
            group = beside.near_dup_group if beside is not None else items.near_dup_group(row or 0)
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
