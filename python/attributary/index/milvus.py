"""A Milvus collection as a `VectorIndex`: candidates from a cluster, re-scored here like any others."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attributary.bundle.bundle import Bundle
from attributary.errors import BundleError, InvalidArgumentError

from .milvus_client import Label, MilvusServer, NotLoadedError, named
from .milvus_filter import FilterWriter, RowFilter
from .milvus_plan import MilvusPlan

# A filter that an expression cannot say exactly is asked for this many times as many rows as it should need.
_MARGIN = 1.5


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
