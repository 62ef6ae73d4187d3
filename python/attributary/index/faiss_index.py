"""FAISS in process: flat, inverted lists of 4-bit or 8-bit codes, or a graph (HNSW)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from attributary.errors import BundleError
from attributary.kernels import ByteLists, can_scan, rank, scan

# How many bits of each byte are set.
_BITS = np.array([value.bit_count() for value in range(256)], np.int64)

_BLOCK = 65_536
_KEPT = 64
# From 20 queries on FAISS compares with centres by BLAS, whose last bits depend on how many they are.
_ALIKE = 16
# Bytes of centres that no second-level cache holds: FAISS reads them anew for every query.
_LARGE = 1 << 21


class FaissIndex:
    """A FAISS index as a `VectorIndex`. CPU indexes are safe for concurrent searches."""

    def __init__(self, index: Any, nprobe: int = 0, threads: int | None = None) -> None:
        """`index` is a faiss.Index over inner products; `nprobe` the lists probed, or of a graph the items looked at
        beside each other (efSearch), ignored where there is no such parameter.

        `threads` is what one search uses at most; None leaves it to OpenMP, which is right for large batches only:
        its threads spin between the searches of a server and take the cores from everything else.
        """
        self._index = index
        self._nprobe = nprobe
        self._threads = threads
        self._dim = int(index.d)
        self._kept: dict[int, Any] = {}
        self._transformed = isinstance(index, faiss.IndexPreTransform)
        inner = faiss.downcast_index(index.index) if self._transformed else index
        self._lists = int(inner.nlist) if isinstance(inner, faiss.IndexIVF) else 0
        self._graph = inner if isinstance(inner, faiss.IndexHNSW) else None
        if self._lists and not 1 <= nprobe <= self._lists:
            raise ValueError(f"nprobe must be from 1 to {self._lists}, got {nprobe}")
        if self._graph is not None:
            # More than there are items is no fault: a compaction may leave few.
            if nprobe < 1:
                raise ValueError(f"nprobe must be at least 1 in a graph, got {nprobe}")
            # For programs that read the file without this package.
            self._graph.hnsw.efSearch = nprobe
        self._bytes = None if self._transformed else _Bytes.of(inner)

    @classmethod
    def read(cls, path: Path, nprobe: int, threads: int | None = None) -> FaissIndex:
        """Read an index file; raises BundleError naming it."""
        try:
            index = faiss.read_index(str(path))
            if index.metric_type != faiss.METRIC_INNER_PRODUCT:
                raise BundleError(path.name, "is not over inner products")
            return cls(index, nprobe, threads)
        except (RuntimeError, ValueError) as error:
            raise BundleError(path.name, f"cannot be opened: {str(error).splitlines()[0]}") from error

    def write(self, path: Path) -> None:
        """Write the index file; raises OSError."""
        try:
            faiss.write_index(self._index, str(path))
        except RuntimeError as error:
            raise OSError(f"{path.name} cannot be written: {str(error).splitlines()[0]}") from error

    def refill(self, vectors: NDArray[np.float16], check: Callable[[], None] = lambda: None) -> None:
        """Hold other vectors, fp16 [N, D], with the training as it is. `check` is called between blocks."""
        self._index.reset()
        one_by_one(self._graph)
        for start in range(0, len(vectors), _BLOCK):
            check()
            self._index.add(vectors[start : start + _BLOCK].astype(np.float32))
        if self._bytes is not None:
            self._bytes = _Bytes.of(self._index)

    @property
    def dim(self) -> int:
        """D, dimensions of a vector."""
        return int(self._index.d)

    @property
    def size(self) -> int:
        """How many rows are indexed."""
        return int(self._index.ntotal)

    def search(
        self, queries: NDArray[np.float32], count: int, allowed: NDArray[np.uint8] | None = None
    ) -> NDArray[np.int64]:
        """Return candidate rows, int64 [B, count], -1 only where fewer rows pass (see `VectorIndex.search`).

        A query whose probed lists hold fewer than `count` rows that pass is asked again with four times as many.
        """
        queries = np.ascontiguousarray(queries, np.float32)
        passing = self.size if allowed is None else int(_BITS[allowed].sum())
        nprobe = self._nprobe
        most = self._lists or (self.size if self._graph is not None else 0)
        if most and 0 < passing < self.size:
            # A filter thins every list out, and every neighbourhood, by the same factor, on average.
            nprobe = min(most, -(-nprobe * self.size // passing))
        rows = self.probe(queries, count, nprobe, allowed)
        if rows.size and rows.min() >= 0:
            return rows
        wanted = min(count, passing)
        while (short := np.flatnonzero((rows >= 0).sum(axis=1) < wanted)).size and nprobe < most:
            nprobe = min(most, nprobe * 4)
            rows[short] = self.probe(queries[short], count, nprobe, allowed)
        if short.size and self._graph is not None:
            # What no link leads to is found by looking at everything.
            rows[short] = self._scan(queries[short], count, allowed)
        return rows

    def probe(
        self,
        queries: NDArray[np.float32],
        count: int,
        nprobe: int,
        allowed: NDArray[np.uint8] | None = None,
    ) -> NDArray[np.int64]:
        """Search `nprobe` lists once, or a graph with so much effort, at least `count`.

        int64 [B, count], -1 where fewer rows that pass were met.
        """
        if len(queries) == 0 or count == 0:
            return np.empty((len(queries), count), np.int64)
        if self._threads is not None:
            # A setting of the calling thread, and cheap beside any search.
            faiss.omp_set_num_threads(self._threads)
        queries = np.ascontiguousarray(queries, np.float32)
        if queries.shape != (len(queries), self._dim):
            raise ValueError(f"queries must be [B, {self._dim}], got {list(queries.shape)}")
        if self._bytes is not None and can_scan(self._dim):
            return self._bytes.search(queries, count, nprobe, allowed, self._threads or 0)
        parameters = self._parameters(max(nprobe, count) if self._graph is not None else nprobe, allowed)
        # What faiss.Index.search does, without looking at its arguments again: that takes as long as a small list.
        distances, rows = (
            np.empty((len(queries), count), np.float32),
            np.empty((len(queries), count), np.int64),
        )
        given, out, found = map(faiss.swig_ptr, (queries, distances, rows))
        self._index.search_c(len(queries), given, count, out, found, parameters)
        return rows

    def _parameters(self, effort: int, allowed: NDArray[np.uint8] | None) -> Any:
        """FAISS's parameters of a search, None for its own. Those without a filter are kept: they are only read."""
        if allowed is None and (kept := self._kept.get(effort)) is not None:
            return kept
        extra = {} if allowed is None else {"sel": faiss.IDSelectorBitmap(allowed)}
        parameters: Any = None
        if self._graph is not None:
            parameters = faiss.SearchParametersHNSW(efSearch=effort, **extra)
        elif self._lists:
            parameters = faiss.SearchParametersIVF(nprobe=effort, **extra)
        elif extra:
            parameters = faiss.SearchParameters(**extra)
        if parameters is not None and self._transformed:
            parameters = faiss.SearchParametersPreTransform(index_params=parameters)
        if allowed is None and len(self._kept) < _KEPT:
            self._kept[effort] = parameters
        return parameters

    def _scan(
        self, queries: NDArray[np.float32], count: int, allowed: NDArray[np.uint8] | None
    ) -> NDArray[np.int64]:
        assert self._graph is not None
        extra = {} if allowed is None else {"sel": faiss.IDSelectorBitmap(allowed)}
        parameters: Any = faiss.SearchParameters(**extra)
        return np.asarray(self._graph.storage.search(queries, count, params=parameters)[1], np.int64)


class _Bytes:
    """Lists of a byte a dimension (IVF, SQ8), scanned by the kernel: FAISS makes floats of every byte it meets."""

    def __init__(self, index: Any) -> None:
        lists = [index.invlists.get_codes(number) for number in range(index.nlist)]
        rows = [index.invlists.get_ids(number) for number in range(index.nlist)]
        self._index = index
        self._lists = ByteLists(
            np.array([int(codes) for codes in lists], np.uint64),
            np.array([int(ids) for ids in rows], np.uint64),
            np.array([index.invlists.list_size(number) for number in range(index.nlist)], np.int64),
            int(index.d),
        )
        # A value is low + (code + 1/2) / 255 * width, on top of its list's centre.
        low, width = faiss.vector_to_array(index.sq.trained).reshape(2, -1)
        self._step, self._middle = width / np.float32(255), low + width / np.float32(510)
        large = index.nlist * index.d * 4 >= _LARGE
        self._centres = _Centres(index.quantizer.reconstruct_n(0, index.nlist)) if large else None

    @classmethod
    def of(cls, index: Any) -> _Bytes | None:
        """The lists of an index; None where it has others."""
        fits = (
            isinstance(index, faiss.IndexIVFScalarQuantizer)
            and index.sq.qtype == faiss.ScalarQuantizer.QT_8bit
            and index.by_residual
            and isinstance(faiss.downcast_InvertedLists(index.invlists), faiss.ArrayInvertedLists)
        )
        return cls(index) if fits else None

    def search(
        self,
        queries: NDArray[np.float32],
        count: int,
        nprobe: int,
        allowed: NDArray[np.uint8] | None,
        threads: int,
    ) -> NDArray[np.int64]:
        lists, near = (self._nearest if self._centres is None else self._centres.nearest)(
            queries, nprobe, threads
        )
        near += (queries * self._middle).sum(axis=1)[:, None]
        return scan(
            self._lists, queries * self._step, lists, near, count=count, allowed=allowed, threads=threads
        )

    def _nearest(
        self, queries: NDArray[np.float32], nprobe: int, threads: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        near = np.empty((len(queries), nprobe), np.float32)
        lists = np.empty((len(queries), nprobe), np.int64)
        for start in range(0, len(queries), _ALIKE):
            some = slice(start, start + _ALIKE)
            given, out, found = (faiss.swig_ptr(array[some]) for array in (queries, near, lists))
            self._index.quantizer.search_c(len(queries[some]), given, nprobe, out, found, None)
        return lists, near


class _Centres:
    """Centres of many lists, found as items are: bytes propose some, halves order them."""

    def __init__(self, centres: NDArray[np.float32]) -> None:
        low = centres.min(axis=0)
        self._step = np.maximum(centres.max(axis=0) - low, np.float32(1e-12)) / np.float32(255)
        self._middle = low
        self._codes = np.rint((centres - low) / self._step).astype(np.uint8)
        self._rows = np.arange(len(centres))
        self._halves = centres.astype(np.float16)
        codes, rows = (np.array([array.ctypes.data], np.uint64) for array in (self._codes, self._rows))
        self._list = ByteLists(codes, rows, np.array([len(centres)]), centres.shape[1])

    def nearest(
        self, queries: NDArray[np.float32], nprobe: int, threads: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Lists int64 [B, nprobe], the nearest first, and the similarities of their centres."""
        base = (queries * self._middle).sum(axis=1)[:, None]
        some = min(2 * nprobe + 16, len(self._rows))
        found = scan(
            self._list, queries * self._step, np.zeros((len(queries), 1), np.int64), base, count=some,
            threads=threads,
        )  # fmt: skip
        return rank(queries, found, self._halves, top_k=nprobe, threads=threads)


def one_by_one(graph: Any) -> None:
    """Let items enter a graph in one order only, so that a build gives the same index each time; None is no graph."""
    if graph is not None:
        graph.hnsw.efConstruction = 100
        faiss.omp_set_num_threads(1)
