"""What a query sees: the bundle's items, less those that were deleted, and those that were added since its build.

A snapshot never changes. A change makes the next one, which shares with it what has not changed; a query is answered
from one snapshot from beginning to end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from operator import attrgetter

import numpy as np
from numpy.typing import NDArray

from attributary import kernels
from attributary.bundle.added_items import AddedItems, GrowingArray
from attributary.bundle.bundle import Bundle
from attributary.bundle.items import LOOK, ItemTable
from attributary.bundle.manifest import Calibration
from attributary.delta.journal.records import Changes
from attributary.errors import DeletedError, NotFoundError
from attributary.index.base import VectorIndex
from attributary.pictures.framed import framed
from attributary.pictures.recognise import Known, Shown

from .filters import Allowed, FilterCompiler
from .names import PromptNames
from .types import Filter

# Pictures are not kept; the same one comes out a little different beside others, another one does not.
_SAME_COSINE = 0.9995
_BLOCK = 65_536
# In the order of `attributary.kernels.types.CALIBRATION`.
_CALIBRATION = attrgetter(
    *("temperature", "threshold", "background", "diffuse_floor", "ood_similarity", "ood_margin"),
    *("reach", "reach_cut", "reach_null"),
)


@dataclass(frozen=True, slots=True)
class Candidates:
    """Rows that a search found for each query, and how similar they are where that is known already."""

    rows: NDArray[np.int64]  # [Q, R], -1 where there are fewer
    similarity: NDArray[np.float32] | None = None  # [Q, R] exact

    def take(self, places: Sequence[int]) -> Candidates:
        """The candidates of some of the queries."""
        similarity = None if self.similarity is None else self.similarity[places]
        return Candidates(self.rows[places], similarity)


class _Shared:
    """What the snapshots of one bundle share: the items added to it and their vectors, in both precisions."""

    def __init__(self, bundle: Bundle) -> None:
        dim = bundle.manifest.encoder.dim
        self.items = AddedItems(bundle.items)
        self.vectors = GrowingArray(np.empty((0, dim), np.float16))
        self.vectors32 = GrowingArray(np.empty((0, dim), np.float32))
        # A generator's student need not place an item's picture near the item; an untuned encoder does.
        manifest = bundle.manifest
        student = manifest.vectors_made_by == "trained" or bool(manifest.subject.weights_digest)
        self._looks = bundle.looks if student else None
        self.recognises = self._looks is not None
        self._added_looks = GrowingArray(np.empty((0, *LOOK), np.int8))
        self._added_signs = GrowingArray(np.empty(0, np.uint64))
        self._added_standing = GrowingArray(np.empty((0, 4), np.int8))

    def entered(self, looks: NDArray[np.int8]) -> Known:
        """All added items' pictures with these behind, int8 [n, *LOOK]."""
        new = Known.of(looks)
        return Known(
            self._added_looks.append(looks),
            self._added_signs.append(new.signs),
            self._added_standing.append(new.standing),
        )

    @cached_property
    def known(self) -> Known | None:
        """The items' pictures where they have to be recognised; read when the first picture is asked with."""
        return None if self._looks is None else Known.of(self._looks)


@dataclass(frozen=True)
class Snapshot:
    """A bundle as of one revision. `bundle.items` covers all rows, `bundle.vectors` those of the bundle only."""

    bundle: Bundle
    index: VectorIndex | None  # over the bundle's own rows; None where search is done elsewhere
    filters: FilterCompiler
    added: NDArray[np.float16]  # [A, D], rows N to N + A - 1
    added32: NDArray[np.float32]  # the same, for exact search
    added_known: Known  # their pictures, where items' pictures have to be recognised; else none
    alive: NDArray[np.bool_] | None  # [N + A]; None if nothing was deleted, now or before a compaction
    replaced: NDArray[np.int64]  # rows of deleted items that were added back: they count no more; ascending
    deleted: Mapping[int, str]  # id -> when, ISO 8601
    item_count: int  # alive
    revision: int  # of the journal; 0 without one
    shared: _Shared
    names: PromptNames | None  # what is not read in prompts; None where all of them is

    @classmethod
    def of(cls, bundle: Bundle, index: VectorIndex | None) -> Snapshot:
        """The bundle as it was built."""
        shared = _Shared(bundle)
        alive = None if bundle.items.withheld is None else ~bundle.items.withheld
        return cls(
            bundle=bundle,
            index=index,
            filters=FilterCompiler(bundle.items, bundle.manifest.index.candidates, alive),
            added=shared.vectors.append(np.empty((0, bundle.manifest.encoder.dim), np.float16)),
            added32=shared.vectors32.append(np.empty((0, bundle.manifest.encoder.dim), np.float32)),
            added_known=shared.entered(np.empty((0, *LOOK), np.int8)),
            alive=alive,
            replaced=np.zeros(0, np.int64),
            deleted={},
            item_count=len(bundle.items) if alive is None else int(alive.sum()),
            revision=0,
            shared=shared,
            names=None if bundle.manifest.names_in_prompts == "read" else PromptNames(bundle.items),
        )

    @property
    def added_count(self) -> int:
        """Items added since the bundle was made, and still there."""
        split = len(self.bundle.vectors)
        return len(self.added) if self.alive is None else int(self.alive[split:].sum())

    @property
    def deleted_count(self) -> int:
        """Items that the bundle was made with, and that are gone."""
        made_with = len(self.bundle.vectors) - self.bundle.manifest.withheld_count
        return made_with + self.added_count - self.item_count

    @cached_property
    def creator_count(self) -> int:
        """Creators who have an item."""
        if self.alive is None and not len(self.added):
            return len(self.bundle.items.creator_names)
        return int(np.count_nonzero(self.filters.creators))

    def row_of(self, item_id: int) -> int:
        """Return the row of an item; raises DeletedError, NotFoundError."""
        if item_id in self.deleted:
            raise DeletedError(item_id, self.deleted[item_id])
        row = self.bundle.items.row_of(item_id)
        if row is None:
            raise NotFoundError("item", str(item_id))
        return row

    def thumbnail(self, item_id: int) -> bytes | None:
        """Return a small picture of an item, WebP, if the bundle has one; raises DeletedError, NotFoundError."""
        row = self.row_of(item_id)
        # An item that was added later, under an id that was free again, is not the one that was pictured.
        built = row < len(self.bundle.vectors)
        return self.bundle.thumbnails.of(item_id) if built and self.bundle.thumbnails is not None else None

    def apply(self, changes: Changes) -> Snapshot:
        """Return the snapshot after further changes. Only the latest snapshot may be changed, by one thread at a time.

        Ids are never used twice, so the additions and then the deletions give what their own order would.
        """
        bundle, alive = self.bundle, self.alive
        added, added32, added_known = self.added, self.added32, self.added_known
        gone = replaced = np.zeros(0, np.int64)
        if changes.added:
            bundle = replace(bundle, items=self.shared.items.append(changes.added))
            added = self.shared.vectors.append(changes.vectors)
            added32 = self.shared.vectors32.append(changes.vectors.astype(np.float32))
            if self.shared.recognises:
                added_known = self.shared.entered(changes.looks)
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
        # A name that a compaction has forgotten would be read again: whoever left goes on moving nothing.
        creators = [*(item.creator for item in changes.added), *sorted(changes.former.creators)]
        if changes.added and alive is not None:
            replaced = self._replaced(bundle.items, added32, np.flatnonzero(~alive), changes)
        return Snapshot(
            bundle=bundle,
            index=self.index,
            filters=self.filters.after(bundle.items, alive, gone, changes.former_names),
            added=added,
            added32=added32,
            added_known=added_known,
            alive=alive,
            replaced=np.union1d(self.replaced, replaced),
            deleted={**self.deleted, **changes.deleted} if changes.deleted else self.deleted,
            item_count=len(bundle.items) if alive is None else int(alive.sum()),
            revision=changes.revision,
            shared=self.shared,
            names=self.names and self.names.after(creators),
        )

    def _replaced(
        self, items: ItemTable, added32: NDArray[np.float32], dead: NDArray[np.int64], changes: Changes
    ) -> NDArray[np.int64]:
        """Rows of deleted items that the additions of a step bring back: same creator, same vector, added later.

        Each brings back one, the first that nothing else has: what two items had is not one's, nor anybody else's.
        """
        first = len(self.bundle.vectors) + len(self.added)
        new = added32[len(self.added) :]
        creators = items.creator_of_row[first:]
        when = {
            kind: {
                item_id: entry.revision
                for entry in changes.entries
                if entry.kind == kind
                for item_id in entry.ids
            }
            for kind in ("add", "delete")
        }
        added_at = np.array([when["add"].get(item.id, 0) for item in changes.added])
        found = []
        waiting = np.ones(len(new), bool)  # additions that have brought nothing back
        dead = dead[np.isin(items.creator_of_row[dead], creators) & ~np.isin(dead, self.replaced)]
        for start in range(0, len(dead), _BLOCK):
            rows = dead[start : start + _BLOCK]
            vectors = np.empty((len(rows), added32.shape[1]), np.float32)
            own = rows < len(self.bundle.vectors)
            vectors[own] = self.bundle.vectors[rows[own]]
            vectors[~own] = added32[rows[~own] - len(self.bundle.vectors)]
            # What was deleted before this step was deleted before all of its additions.
            died_at = np.array([when["delete"].get(items.id_of(row), 0) for row in rows.tolist()])
            same = (vectors @ new.T >= _SAME_COSINE) & (died_at[:, None] < added_at)
            same &= items.creator_of_row[rows][:, None] == creators
            free = np.ones(len(rows), bool)
            for place in np.flatnonzero(same.any(axis=0) & waiting).tolist():
                for row in np.flatnonzero(same[:, place] & free)[:1].tolist():
                    free[row] = waiting[place] = False
            found.append(rows[~free])
        return np.concatenate([np.zeros(0, np.int64), *found])

    def showing(self, pixels: NDArray[np.uint8], seen: NDArray[np.uint8] | None = None) -> NDArray[np.int64]:
        """Rows of the items whose very picture this is, uint8 [S, S, 3] as the encoder sees it; mostly none.

        `seen` is its overview, uint8 [H, W, 3], where an item's picture may lie within margins.
        Several where items have one picture. Deleted items are among them, since what they hold is withheld; those that
        were added back are not: they count where they are now.
        """
        known = self.shared.known
        if known is None:
            return np.zeros(0, np.int64)
        rows = Shown(pixels).closest(known, self.added_known)
        if not rows.size and seen is not None:
            rows = framed(seen, len(pixels), known, self.added_known)
        return rows[~np.isin(rows, self.replaced)]

    @cached_property
    def calibrations(self) -> NDArray[np.float32]:
        """The kernels' calibration of queries without a prompt and with one, float32 [2, 9]."""
        return calibration_of(self.bundle.manifest.calibration, (False, True))

    @property
    def candidate_count(self) -> int:
        """R: over how many candidates the shares of a query are."""
        return min(self.bundle.manifest.index.candidates, len(self.bundle.items))

    def visible(self, filter_: Filter) -> Allowed | None:
        """The rows that an answer may show; None if it may show all."""
        return self.filters.compile(filter_) if filter_ or self.alive is not None else None

    def candidates(self, queries: NDArray[np.float32]) -> Candidates:
        """The best R rows of the whole, hidden ones included, for unit vectors float32 [Q, D]."""
        assert self.index is not None
        size = len(self.bundle.vectors)
        if self.candidate_count >= size:
            # All of them are: nothing is to be searched for.
            rows = np.broadcast_to(np.arange(size), (len(queries), size))
        else:
            rows = self.index.search(queries, self.candidate_count)
        return (
            Candidates(rows) if not len(self.added) else self.with_added(queries, self.ranked(queries, rows))
        )

    def candidates_among(self, queries: NDArray[np.float32], filter_: Filter) -> Candidates:
        """The best R rows that pass a filter and were not deleted, with their similarities."""
        assert self.index is not None
        allowed = self.filters.compile(filter_)
        if allowed.listed:
            return self.listed(queries, allowed)
        split = len(self.bundle.vectors)
        rows = self.index.search(queries, min(self.candidate_count, split), allowed.first(split))
        return self.with_added(queries, self.ranked(queries, rows), allowed)

    def listed(self, queries: NDArray[np.float32], allowed: Allowed) -> Candidates:
        """`candidates_among` where so few pass that all of them are candidates: exact, without an index."""
        own = allowed.rows[allowed.rows < len(self.bundle.vectors)]
        rows = np.broadcast_to(own, (len(queries), len(own)))
        return self.with_added(queries, self.ranked(queries, rows), allowed)

    def score(
        self,
        candidates: Candidates,
        queries: NDArray[np.float32] | None,
        calibration: NDArray[np.float32],
        visible: NDArray[np.uint8] | None,
        *,
        top_k: int,
        top_creators: int,
    ) -> kernels.Rescored:
        """Shares of candidates (see `attributary.kernels.rescore`); `queries` where similarities are not known."""
        rows, items = np.ascontiguousarray(candidates.rows), self.bundle.items
        if candidates.similarity is not None:
            return kernels.share(
                rows, candidates.similarity, items.creator_of_row, items.group_of_row, calibration,
                top_k=top_k, top_creators=top_creators, visible=visible,
            )  # fmt: skip
        assert queries is not None
        return kernels.rescore(
            queries, rows, self.bundle.vectors, items.creator_of_row, items.group_of_row, calibration,
            top_k=top_k, top_creators=top_creators, visible=visible,
        )  # fmt: skip

    def ranked(self, queries: NDArray[np.float32], rows: NDArray[np.int64]) -> Candidates:
        """Rows of the bundle's own with their similarities, best first."""
        width = min(self.candidate_count, rows.shape[1])
        return Candidates(*kernels.rank(queries, rows, self.bundle.vectors, top_k=width))

    def with_added(
        self, queries: NDArray[np.float32], found: Candidates, allowed: Allowed | None = None
    ) -> Candidates:
        """The best R of candidates of the bundle's own rows, with similarities, and all added rows that pass."""
        assert found.similarity is not None
        if not len(self.added):
            return found
        split = len(self.bundle.vectors)
        behind = np.broadcast_to(np.arange(split, split + len(self.added)), (len(queries), len(self.added)))
        scores = queries @ self.added32.T
        if allowed is not None:
            scores[:, ~allowed.passes(np.arange(split, split + len(self.added)))] = -np.inf
        scores[:, self.replaced[self.replaced >= split] - split] = -np.inf
        shown = (found.rows >= 0) & ~np.isin(found.rows, self.replaced)
        rows = np.concatenate([found.rows, behind], axis=1)
        similarity = np.concatenate([np.where(shown, found.similarity, np.float32(-np.inf)), scores], axis=1)
        # Stable, so that equal similarities keep the order of their rows.
        best = np.argsort(-similarity, axis=1, kind="stable")[:, : self.candidate_count]
        rows, similarity = np.take_along_axis(rows, best, 1), np.take_along_axis(similarity, best, 1)
        return Candidates(
            np.where(np.isneginf(similarity), -1, rows), np.where(np.isneginf(similarity), 0, similarity)
        )

    def last_of(self, rows: NDArray[np.int64]) -> NDArray[np.float16]:
        """The last value of the vectors of rows, fp16 [R]."""
        split = len(self.bundle.vectors)
        found = np.empty(len(rows), np.float16)
        own = rows < split
        found[own] = self.bundle.vectors[rows[own], -1]
        found[~own] = self.added[rows[~own] - split, -1]
        return found

    def vectors_of(self, rows: NDArray[np.int64]) -> NDArray[np.float16]:
        """Vectors of rows in ascending order, fp16 [R, D]; a copy."""
        split = len(self.bundle.vectors)
        behind = int(np.searchsorted(rows, split))
        return np.concatenate([self.bundle.vectors[rows[:behind]], self.added[rows[behind:] - split]])


def calibration_of(calibration: Calibration, has_prompt: Sequence[bool]) -> NDArray[np.float32]:
    """The kernels' calibration of each query, float32 [Q, 9] (`attributary.kernels.types.CALIBRATION`)."""
    shares = [_CALIBRATION(calibration.of(with_prompt)) for with_prompt in has_prompt]
    return np.array(shares, np.float32).reshape(-1, len(kernels.CALIBRATION))
