"""What a query sees: the bundle's items, less those that were deleted, and those that were added since its build.

A view never changes. A change makes the next view, which shares with it what has not changed; a query is answered
from one view from beginning to end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from attributary import kernels
from attributary.bundle.bundle import Bundle
from attributary.bundle.grown import GrowingArray, Growth
from attributary.delta.journal.records import Changes
from attributary.errors import DeletedError, NotFoundError
from attributary.index.base import VectorIndex
from attributary.index.grown import GrownIndex

from .filters import FilterCompiler


class _Tail:
    """What the views of one bundle share: the items added to it and their vectors, in both precisions."""

    def __init__(self, bundle: Bundle) -> None:
        dim = bundle.manifest.encoder.dim
        self.items = Growth(bundle.items)
        self.vectors = GrowingArray(np.empty((0, dim), np.float16))
        self.vectors32 = GrowingArray(np.empty((0, dim), np.float32))


@dataclass(frozen=True)
class View:
    """A bundle as of one revision. `bundle.items` covers all rows, `bundle.vectors` those of the bundle only."""

    bundle: Bundle
    index: VectorIndex | None  # over all rows; None where search is done elsewhere
    filters: FilterCompiler
    tail: NDArray[np.float16]  # [T, D], rows N to N + T - 1
    alive: NDArray[np.bool_] | None  # [N + T]; None if nothing was deleted
    deleted: Mapping[int, str]  # id -> when, ISO 8601
    item_count: int  # alive
    revision: int  # of the journal; 0 without one
    shared: _Tail

    @classmethod
    def of(cls, bundle: Bundle, index: VectorIndex | None) -> View:
        """The bundle as it was built."""
        tail = _Tail(bundle)
        return cls(
            bundle=bundle,
            index=index,
            filters=FilterCompiler(bundle.items, bundle.manifest.index.candidates),
            tail=tail.vectors.append(np.empty((0, bundle.manifest.encoder.dim), np.float16)),
            alive=None,
            deleted={},
            item_count=len(bundle.items),
            revision=0,
            shared=tail,
        )

    @property
    def added_count(self) -> int:
        """Items added since the bundle was made, and still there."""
        split = len(self.bundle.vectors)
        return len(self.tail) if self.alive is None else int(self.alive[split:].sum())

    @property
    def deleted_count(self) -> int:
        """Items that the bundle was made with, and that are gone."""
        return len(self.bundle.vectors) + self.added_count - self.item_count

    @cached_property
    def creator_count(self) -> int:
        """Creators who have an item."""
        if self.alive is None and not len(self.tail):
            return self.bundle.manifest.creator_count
        return int(np.count_nonzero(self.filters.creators))

    def row_of(self, item_id: int) -> int:
        """Return the row of an item; raises DeletedError, NotFoundError."""
        if item_id in self.deleted:
            raise DeletedError(item_id, self.deleted[item_id])
        row = self.bundle.items.row_of(item_id)
        if row is None:
            raise NotFoundError("item", str(item_id))
        return row

    def apply(self, changes: Changes) -> View:
        """Return the view after further changes. Only the latest view may be changed, by one thread at a time.

        Ids are never used twice, so the additions and then the deletions give what their own order would.
        """
        bundle, index, alive = self.bundle, self.index, self.alive
        tail = self.tail
        gone = np.zeros(0, np.int64)
        if changes.added:
            bundle = replace(bundle, items=self.shared.items.append(changes.added))
            tail = self.shared.vectors.append(changes.vectors)
            tail32 = self.shared.vectors32.append(changes.vectors.astype(np.float32))
            if index is not None:
                base = index.base if isinstance(index, GrownIndex) else index
                index = GrownIndex(base, bundle.vectors, tail32)
            if alive is not None:
                alive = np.append(alive, np.ones(len(changes.added), bool))
        if changes.deleted:
            alive = np.ones(len(bundle.items), bool) if alive is None else alive.copy()
            rows = [bundle.items.row_of(item_id) for item_id in changes.deleted]
            # Those deleted before the bundle was made have no row in it.
            gone = np.array([row for row in rows if row is not None], np.int64)
            gone = gone[alive[gone]]
            alive[gone] = False
            if alive.all():
                alive = None
        return View(
            bundle=bundle,
            index=index,
            filters=self.filters.after(bundle.items, alive, gone),
            tail=tail,
            alive=alive,
            deleted={**self.deleted, **changes.deleted} if changes.deleted else self.deleted,
            item_count=len(bundle.items) if alive is None else int(alive.sum()),
            revision=changes.revision,
            shared=self.shared,
        )

    def rescore(
        self,
        queries: NDArray[np.float32],
        candidates: NDArray[np.int64],
        allowed: NDArray[np.uint8] | None,
        **given: object,
    ) -> kernels.Rescored:
        """Re-score candidates exactly (see `attributary.kernels.rescore`)."""
        items = self.bundle.items
        candidates = np.ascontiguousarray(candidates)
        if not len(self.tail):
            columns = (self.bundle.vectors, items.creator_of_row, items.group_of_row)
            return kernels.rescore(queries, candidates, *columns, allowed=allowed, **given)  # type: ignore[arg-type]
        # The kernel wants one array: the rows that are asked about, in their order, which settles ties.
        rows, places = np.unique(candidates, return_inverse=True)
        rows, absent = (rows[1:], 1) if rows.size and rows[0] < 0 else (rows, 0)
        scored = kernels.rescore(
            queries,
            places.reshape(candidates.shape).astype(np.int64) - absent,
            self.vectors_of(rows),
            items.creator_of_row[rows],
            items.group_of_row[rows],
            allowed=None if allowed is None else _bits_of(allowed, rows),
            **given,  # type: ignore[arg-type]
        )
        found = scored.rows >= 0
        scored.rows[found] = rows[scored.rows[found]]
        return scored

    def vectors_of(self, rows: NDArray[np.int64]) -> NDArray[np.float16]:
        """Vectors of rows in ascending order, fp16 [R, D]; a copy."""
        split = len(self.bundle.vectors)
        behind = int(np.searchsorted(rows, split))
        return np.concatenate([self.bundle.vectors[rows[:behind]], self.tail[rows[behind:] - split]])


def _bits_of(bitmap: NDArray[np.uint8], rows: NDArray[np.int64]) -> NDArray[np.uint8]:
    return np.packbits((bitmap[rows >> 3] >> (rows & 7).astype(np.uint8)) & 1, bitorder="little")
