"""A bitmap over rows as a Milvus expression: by creator and licence where it can be, by row where it must be."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from threading import Lock

import numpy as np
from numpy.typing import NDArray

# Rows that one expression lists by number at most. Milvus parses an expression again for every search.
MAX_LISTED_ROWS = 4_096
_CACHED = 64


@dataclass(frozen=True, slots=True)
class RowFilter:
    """An expression that every allowed row passes."""

    expression: str  # empty: every row passes
    allowed: int  # rows whose bit is 1
    passing: int  # rows that pass the expression; more than `allowed` where it could not be said exactly

    @property
    def exact(self) -> bool:
        """Whether exactly the allowed rows pass."""
        return self.allowed == self.passing


class FilterWriter:
    """Writes bitmaps as expressions over the fields `row`, `creator` and `licence`; remembers the most recent ones."""

    def __init__(self, creator_of_row: NDArray[np.int32], licence_of_row: NDArray[np.int32]) -> None:
        """Codes are int32 [N], dense from 0, as in `ItemTable`."""
        self._fields = {"creator": creator_of_row, "licence": licence_of_row}
        self._size = len(creator_of_row)
        self._cache: OrderedDict[bytes, RowFilter] = OrderedDict()
        self._lock = Lock()

    def write(self, bitmap: NDArray[np.uint8]) -> RowFilter:
        """Return the filter of a bitmap, uint8 [ceil(N / 8)], least significant bit first."""
        # By content: a caller may change its bitmap and ask again.
        key = hashlib.blake2b(np.ascontiguousarray(bitmap).data, digest_size=16).digest()
        with self._lock:
            if found := self._cache.get(key):
                self._cache.move_to_end(key)
                return found
        written = self._write(np.unpackbits(bitmap, count=self._size, bitorder="little").astype(bool))
        with self._lock:
            self._cache[key] = written
            while len(self._cache) > _CACHED:
                self._cache.popitem(last=False)
        return written

    def _write(self, allowed: NDArray[np.bool_]) -> RowFilter:
        count = int(allowed.sum())
        if count == self._size:
            return RowFilter("", count, count)
        parts, cover = self._classes(allowed)
        excess = np.flatnonzero(cover & ~allowed)
        exact = []
        if excess.size <= MAX_LISTED_ROWS:
            listed = [_among("row", excess, negated=True)] if excess.size else []
            exact.append(" and ".join(parts + listed))
        if count <= MAX_LISTED_ROWS:
            exact.append(_among("row", np.flatnonzero(allowed)))
        if self._size - count <= MAX_LISTED_ROWS:
            exact.append(_among("row", np.flatnonzero(~allowed), negated=True))
        if exact:
            return RowFilter(min(exact, key=len), count, count)
        return RowFilter(" and ".join(parts), count, int(cover.sum()))

    def _classes(self, allowed: NDArray[np.bool_]) -> tuple[list[str], NDArray[np.bool_]]:
        """The smallest union of creators, cut with one of licences, that holds every allowed row."""
        parts = []
        cover = np.ones(self._size, bool)
        for name, codes in self._fields.items():
            present = np.bincount(codes[allowed], minlength=int(codes.max()) + 1) > 0
            cover &= present[codes]
            inside, outside = np.flatnonzero(present), np.flatnonzero(~present)
            if outside.size == 0:
                continue
            negated = outside.size < inside.size
            parts.append(_among(name, outside if negated else inside, negated=negated))
        return parts, cover


def _among(field: str, values: NDArray[np.int64], negated: bool = False) -> str:
    return f"{field} {'not in' if negated else 'in'} [{','.join(map(str, values.tolist()))}]"
