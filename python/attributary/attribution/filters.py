"""Creator and licence filters as bitmaps over the rows of a bundle."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from functools import cached_property
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from attributary.bundle.items import ItemTable
from attributary.bundle.names import same_name
from attributary.delta.journal.records import NOBODY, Former
from attributary.errors import InvalidArgumentError

from .types import Filter

_CACHED_FILTERS = 64


@dataclass(frozen=True, slots=True)
class Allowed:
    """Rows that pass a filter."""

    bitmap: NDArray[np.uint8]  # [ceil(N / 8)], least significant bit first
    count: int
    rows: NDArray[np.int64]  # the same rows, ascending; empty if there are more than the caller's bound

    @property
    def listed(self) -> bool:
        """Whether `rows` holds all of them."""
        return self.rows.size == self.count

    def passes(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Say of each row whether it passes."""
        return np.asarray((self.bitmap[rows >> 3] >> (rows & 7).astype(np.uint8)) & 1, bool)

    def first(self, count: int) -> NDArray[np.uint8]:
        """The bitmap of the first `count` rows alone."""
        whole, rest = divmod(count, 8)
        bitmap = self.bitmap[: whole + (rest > 0)]
        if rest:
            bitmap = bitmap.copy()
            bitmap[-1] &= (1 << rest) - 1
        return bitmap


class FilterCompiler:
    """Turns a `Filter` into a bitmap once, and remembers the most recent ones.

    `alive`, bool [N], marks the rows that have not been deleted; None stands for all. Deleted rows pass no filter.
    `former` are names that were taken out: a request may go on naming them.
    """

    def __init__(
        self,
        items: ItemTable,
        exact_below: int,
        alive: NDArray[np.bool_] | None = None,
        former: Former = NOBODY,
    ) -> None:
        self._items = items
        self.former = former
        self._exact_below = exact_below
        self._alive = alive
        self._cache: OrderedDict[Filter, Allowed] = OrderedDict()
        self._checked: Filter | None = None
        self._lock = Lock()

    def check(self, filter_: Filter, field: str) -> None:
        """Raise InvalidArgumentError if the filter names a creator or licence that no item has or ever had.

        A name whose last item was deleted goes on being known: one caller's opt-out must not fail another's request.
        """
        if filter_ is self._checked:
            # Of a batch, whose queries share one: thousands of names are looked up once.
            return
        items = self._items
        for kind, codes, former in (
            ("creator", items.creator_codes, self.former.creators),
            ("licence", items.licence_codes, self.former.licences),
        ):
            for list_ in (f"include_{kind}s", f"exclude_{kind}s"):
                for name in getattr(filter_, list_):
                    if name not in codes and same_name(name) not in former:
                        raise InvalidArgumentError(
                            f"{field}.{list_}", f"no item has the {kind} {name[:80]!r}"
                        )
        self._checked = filter_

    @cached_property
    def creators(self) -> NDArray[np.int64]:
        """How many items each creator has, by code; deleted ones are not counted."""
        return self._counts(self._items.creator_of_row)

    def count_of(self, creator: str) -> int:
        """How many items a creator has, deleted ones not counted; 0 for a name that nobody has."""
        code = self._items.creator_codes.code(creator)
        return 0 if code is None or code >= len(self.creators) else int(self.creators[code])

    @cached_property
    def licences(self) -> NDArray[np.int64]:
        """How many items each licence has, by code; deleted ones are not counted."""
        return self._counts(self._items.licence_of_row)

    def after(
        self,
        items: ItemTable,
        alive: NDArray[np.bool_] | None,
        gone: NDArray[np.int64],
        former: Former = NOBODY,
    ) -> FilterCompiler:
        """Return the compiler after a change: `items` goes on behind those of before, rows `gone` were alive until now.

        How many items each creator and licence has is counted on from here, so that no query pays for it.
        """
        following = FilterCompiler(items, self._exact_below, alive, self.former | former)
        first = len(self._items)
        following.creators = _counted_on(self.creators, items.creator_of_row, first, gone)
        following.licences = _counted_on(self.licences, items.licence_of_row, first, gone)
        return following

    def former_names(self) -> Former:
        """Names that have no item left, and those that were there before."""
        items = self._items
        gone = (
            frozenset(
                name for name, code in codes.items() if name and (code >= len(counts) or not counts[code])
            )
            for codes, counts in (
                (items.creator_codes, self.creators),
                (items.licence_codes, self.licences),
            )
        )
        return self.former | Former(*gone)

    def _counts(self, of_row: NDArray[np.int32]) -> NDArray[np.int64]:
        return np.bincount(of_row if self._alive is None else of_row[self._alive]).astype(np.int64)

    def compile(self, filter_: Filter) -> Allowed:
        """Return the rows that pass. A name that no item has any more passes nothing."""
        with self._lock:
            if found := self._cache.get(filter_):
                self._cache.move_to_end(filter_)
                return found
        passing = self._passing(filter_)
        count = int(passing.sum())
        rows = np.flatnonzero(passing) if count <= self._exact_below else np.zeros(0, np.int64)
        allowed = Allowed(np.packbits(passing, bitorder="little"), count, rows.astype(np.int64))
        with self._lock:
            self._cache[filter_] = allowed
            while len(self._cache) > _CACHED_FILTERS:
                self._cache.popitem(last=False)
        return allowed

    def _passing(self, filter_: Filter) -> NDArray[np.bool_]:
        items = self._items
        passing = np.ones(len(items), bool) if self._alive is None else self._alive.copy()
        for names, code_of, of_row, wanted in (
            (filter_.include_creators, items.creator_codes.code, items.creator_of_row, True),
            (filter_.exclude_creators, items.creator_codes.code, items.creator_of_row, False),
            (filter_.include_licences, items.licence_codes.code, items.licence_of_row, True),
            (filter_.exclude_licences, items.licence_codes.code, items.licence_of_row, False),
        ):
            if names:
                listed = np.isin(of_row, [code for name in names if (code := code_of(name)) is not None])
                passing &= listed if wanted else ~listed
        return passing


def _counted_on(
    before: NDArray[np.int64], of_row: NDArray[np.int32], first: int, gone: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Counts by code with the rows from `first` and without the rows `gone`."""
    counts = np.bincount(of_row[first:], minlength=len(before)).astype(np.int64)
    counts[: len(before)] += before
    return counts - np.bincount(of_row[gone], minlength=len(counts))
