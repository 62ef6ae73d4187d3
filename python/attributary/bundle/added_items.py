"""The item table of a bundle and its delta: the bundle's own rows, and those added behind them since its build."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from .items import Facts, ItemRecord, ItemTable
from .names import Codes

Scalar = TypeVar("Scalar", bound=np.generic)


class GrowingArray(Generic[Scalar]):
    """An array that one writer appends to while readers keep views of what was there before.

    A view is never written again: growing past the capacity takes a new buffer, and rows behind a view's end are
    none of its business.
    """

    def __init__(self, start: NDArray[Scalar]) -> None:
        self._data = start
        self._size = len(start)

    def append(self, values: NDArray[Scalar]) -> NDArray[Scalar]:
        """Append rows; return a view of all of them."""
        size = self._size + len(values)
        # What it started with may be somebody else's, or mapped from a file: it is full, so it is copied.
        if size > len(self._data):
            larger = np.empty(
                (max(size, self._size + self._size // 2, 64), *self._data.shape[1:]), self._data.dtype
            )
            larger[: self._size] = self._data[: self._size]
            self._data = larger
        if len(values):
            self._data[self._size : size] = values
        self._size = size
        return self._data[:size]


class AddedItems:
    """What one writer appends items to. `items` is the table as of now; earlier ones stay as they were."""

    def __init__(self, base: ItemTable) -> None:
        self.base = base
        self.records: list[ItemRecord] = []
        self.rows: dict[int, int] = {}
        self.creator_names = list(base.creator_names)
        self.licence_names = list(base.licence_names)
        self.creator_codes = Codes(base.creator_names)
        self.licence_codes = Codes(base.licence_names)
        self._creators = GrowingArray(base.creator_of_row)
        self._licences = GrowingArray(base.licence_of_row)
        self._groups = GrowingArray(base.group_of_row)
        self._base_groups = base.groups
        self._new_groups: dict[int, int] = {}
        self._largest_group = int(self._base_groups[-1])

    def fresh_group(self) -> int:
        """A near-duplicate group that no item has."""
        return self._largest_group + 1

    def append(self, items: Sequence[ItemRecord]) -> ItemsWithAdded:
        """Append rows and return the table with them. Ids must be new."""
        for item in items:
            self.rows[item.id] = len(self.base) + len(self.records)
            self.records.append(item)
        creators = [_code(item.creator, self.creator_codes, self.creator_names) for item in items]
        licences = [_code(item.licence, self.licence_codes, self.licence_names) for item in items]
        groups = [self._group_code(item.near_dup_group) for item in items]
        return ItemsWithAdded(
            self,
            self._creators.append(np.array(creators, np.int32)),
            self._licences.append(np.array(licences, np.int32)),
            self._groups.append(np.array(groups, np.int32)),
        )

    def _group_code(self, group: int) -> int:
        self._largest_group = max(self._largest_group, group)
        place = int(np.searchsorted(self._base_groups, group))
        if place < len(self._base_groups) and self._base_groups[place] == group:
            return place
        return self._new_groups.setdefault(group, len(self._base_groups) + len(self._new_groups))


class ItemsWithAdded(ItemTable):
    """Read access by row, over the bundle's rows and those added behind them. Made by `AddedItems.append`."""

    def __init__(
        self,
        added: AddedItems,
        creator_of_row: NDArray[np.int32],
        licence_of_row: NDArray[np.int32],
        group_of_row: NDArray[np.int32],
    ) -> None:
        self._added = added
        self._facts = {}
        self._split = len(added.base)
        # Of the bundle's own rows; added ones are deleted in the snapshot alone.
        self.withheld = added.base.withheld
        self.creator_of_row, self.licence_of_row = creator_of_row, licence_of_row
        self.group_of_row = group_of_row
        # Names and codes only ever grow, so those of later tables do no harm here.
        self.creator_names, self.creator_codes = added.creator_names, added.creator_codes
        self.licence_names, self.licence_codes = added.licence_names, added.licence_codes

    def __len__(self) -> int:
        return len(self.creator_of_row)

    def facts(self, row: int) -> Facts:
        """What an answer says of a row."""
        return self._added.base.facts(row) if row < self._split else super().facts(row)

    def cell(self, name: str, row: int) -> Any:
        """One value of a row, by its column's name."""
        if row < self._split:
            return self._added.base.cell(name, row)
        return getattr(self._added.records[row - self._split], name)

    def row_of(self, item_id: int) -> int | None:
        """The row of an id, None if there is none."""
        row = self._added.rows.get(item_id)
        if row is None:
            return self._added.base.row_of(item_id)
        return row if row < len(self) else None

    def ids_of(self, creator: str) -> tuple[str, ...]:
        """Identifiers of a creator, of the bundle's own rows."""
        return self._added.base.ids_of(creator)

    @property
    def nbytes(self) -> int:
        """Bytes that the table holds in memory: the bundle's, and codes of all rows."""
        codes = (self.creator_of_row, self.licence_of_row, self.group_of_row)
        return self._added.base.nbytes + sum(int(column.nbytes) for column in codes)

    def rows_by_id(self, after: int | None, chunk: int) -> Iterator[NDArray[np.int64]]:
        """Yield the rows of ids above `after` (None: all), by ascending id, about `chunk` at a time; int64."""
        added = sorted(
            (item.id, self._split + place)
            for place, item in enumerate(self._added.records[: len(self) - self._split])
            if after is None or item.id > after
        )
        rows = np.array([row for _, row in added], np.int64)
        ids = np.array([item_id for item_id, _ in added], np.int64)
        for part in self._added.base.rows_by_id(after, chunk):
            own = np.array([self._added.base.id_of(row) for row in part.tolist()], np.int64)
            before = int(np.searchsorted(ids, own[-1]))
            order = np.argsort(np.concatenate([own, ids[:before]]), kind="stable")
            yield np.concatenate([part, rows[:before]])[order]
            rows, ids = rows[before:], ids[before:]
        for start in range(0, len(rows), chunk):
            yield rows[start : start + chunk]

    def rows_with(self, text: str) -> NDArray[np.bool_]:
        """Which rows' captions hold `text`, whatever its case; bool [N]."""
        added = [
            text.lower() in item.caption.lower() for item in self._added.records[: len(self) - self._split]
        ]
        return np.concatenate([self._added.base.rows_with(text), np.array(added, bool)])

    def rows_from(self, source: str) -> NDArray[np.int64]:
        """Rows whose uri begins with `source`, ascending."""
        added = [
            self._split + place
            for place, item in enumerate(self._added.records[: len(self) - self._split])
            if item.uri.startswith(source)
        ]
        return np.concatenate([self._added.base.rows_from(source), np.array(added, np.int64)])


def _code(name: str, codes: Codes, names: list[str]) -> int:
    code = codes.code(name)
    if code is None:
        # The name first: whoever finds the code must find its name.
        names.append(name)
        code = codes[name] = len(names) - 1
    return code
