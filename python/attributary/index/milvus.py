"""A Milvus collection as a `VectorIndex`: candidates from a cluster, re-scored here like any others."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from attributary.bundle.bundle import Bundle
from attributary.errors import BundleError, InvalidArgumentError

from .milvus_client import Label, MilvusServer, NotLoadedError, named
from .planning import MilvusPlan

# A filter that an expression cannot say exactly is asked for this many times as many rows as it should need.
_MARGIN = 1.5
# Rows that one expression lists by number at most. Milvus parses an expression again for every search.
MAX_LISTED_ROWS = 4_096
_CACHED = 64


def collection_of(bundle_id: str) -> str:
    """The collection that a bundle is pushed to unless another is named."""
    return f"attributary_{bundle_id}"


@dataclass(frozen=True, eq=False)
class MilvusIndex:
    """Candidates from the collection of one bundle, never another's. Safe for concurrent searches."""

    _server: MilvusServer
    _collection: str
    size: int  # how many rows are indexed
    dim: int  # D, dimensions of a vector
    plan: MilvusPlan  # how the collection is indexed
    _filters: FilterWriter

    @classmethod
    def open(cls, bundle: Bundle, server: MilvusServer, collection: str = "") -> MilvusIndex:
        """Open the collection that holds a bundle's vectors and load it where it is not.

        Raises BundleError naming the collection: not there, of another bundle, or not filled; UnavailableError.
        """
        manifest = bundle.manifest
        collection = collection or collection_of(manifest.bundle_id)
        label = check_label(server.label(collection), bundle, collection)
        server.call("load_collection", collection, timeout_s=float("inf"))
        held = server.count(collection)
        if held != manifest.item_count:
            raise BundleError(
                named(collection),
                f"holds {held} of {manifest.item_count} items; `attributary index push` finishes it",
            )
        filters = FilterWriter(bundle.items.creator_of_row, bundle.items.licence_of_row)
        return cls(server, collection, held, label.dim, label.plan, filters)

    def search(
        self, queries: NDArray[np.float32], count: int, allowed: NDArray[np.uint8] | None = None
    ) -> NDArray[np.int64]:
        """Return candidate rows, int64 [B, count], -1 where fewer were found (see `VectorIndex.search`).

        A query whose probed lists hold fewer than `count` rows that pass is asked again with four times as many.
        Raises UnavailableError if Milvus is away or slower than its timeout, DeadlineError if the caller's deadline
        (`attributary.deadline`) passes first, OverloadedError.
        """
        if count > self.plan.limit:
            raise InvalidArgumentError(
                "candidates", f"Milvus returns at most {self.plan.limit} of them, got {count}"
            )
        queries = np.ascontiguousarray(queries, np.float32)
        if len(queries) == 0 or count == 0 or self.size == 0:
            return np.full((len(queries), count), -1, np.int64)
        filter_ = RowFilter("", self.size, self.size) if allowed is None else self._filters.write(allowed)
        if filter_.allowed == 0:
            return np.full((len(queries), count), -1, np.int64)
        wanted = min(count, filter_.allowed)
        probes = min(self.plan.lists, -(-self.plan.probes * self.size // filter_.passing))
        limit = self._limit(count, filter_)
        rows = self._ask(queries, count, limit, probes, filter_, allowed)
        while probes < self.plan.lists or (not filter_.exact and limit < self.plan.limit):
            short = np.flatnonzero((rows >= 0).sum(axis=1) < wanted)
            if short.size == 0:
                break
            probes = min(self.plan.lists, probes * 4)
            limit = limit if filter_.exact else min(self.plan.limit, limit * 4)
            rows[short] = self._ask(queries[short], count, limit, probes, filter_, allowed)
        return rows

    def _limit(self, count: int, filter_: RowFilter) -> int:
        """How many rows to ask for, so that about `count` are left once rows that must not pass are dropped."""
        if filter_.exact:
            return count
        return min(self.plan.limit, int(count * _MARGIN * filter_.passing / filter_.allowed) + 1)

    def _ask(
        self,
        queries: NDArray[np.float32],
        count: int,
        limit: int,
        probes: int,
        filter_: RowFilter,
        allowed: NDArray[np.uint8] | None,
    ) -> NDArray[np.int64]:
        request = {
            "data": list(queries),
            "anns_field": "vector",
            "limit": limit,
            "filter": filter_.expression,
            "search_params": {"metric_type": "IP", "params": self.plan.search(probes)},
        }
        try:
            found = self._server.search(self._collection, **request)
        except NotLoadedError:
            self._server.call("load_collection", self._collection)
            found = self._server.search(self._collection, **request)
        rows = np.full((len(queries), count), -1, np.int64)
        for place, hits in enumerate(found):
            ids = np.asarray(hits.ids, np.int64)
            if allowed is not None and not filter_.exact:
                ids = ids[(allowed[ids >> 3] >> (ids & 7).astype(np.uint8)) & 1 == 1]
            ids = ids[:count]
            rows[place, : len(ids)] = ids
        return rows


def check_label(label: Label | None, bundle: Bundle, collection: str) -> Label:
    """Return the label if it is this bundle's; raises BundleError naming the collection and both bundles."""
    manifest = bundle.manifest
    if label is None:
        raise BundleError(named(collection), "was not made by `attributary index push`")
    if label.bundle_id != manifest.bundle_id:
        raise BundleError(
            named(collection), f"holds bundle {label.bundle_id}, this is bundle {manifest.bundle_id}"
        )
    if (label.encoder_digest, label.dim) != (manifest.index.encoder_digest, manifest.encoder.dim):
        raise BundleError(
            named(collection),
            f"holds {label.dim}-dimensional vectors of encoder {label.encoder_digest[:12]}..., the bundle has "
            f"{manifest.encoder.dim} of {manifest.index.encoder_digest[:12]}...",
        )
    return label


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
