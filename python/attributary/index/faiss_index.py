"""FAISS in process: flat, or the IVF-PQ family with 8-bit or 4-bit fast-scan codes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from attributary.errors import BundleError


class FaissIndex:
    """A read-only FAISS index as a `VectorIndex`. CPU indexes are safe for concurrent searches."""

    def __init__(self, index: Any, nprobe: int = 0) -> None:
        """`index` is a faiss.Index over inner products; `nprobe` the lists probed, ignored where there are none."""
        self._index = index
        self._nprobe = nprobe
        self._transformed = isinstance(index, faiss.IndexPreTransform)
        inner = faiss.downcast_index(index.index) if self._transformed else index
        self._has_lists = isinstance(inner, faiss.IndexIVF)
        if self._has_lists and not 1 <= nprobe <= inner.nlist:
            raise ValueError(f"nprobe must be from 1 to {inner.nlist}, got {nprobe}")

    @classmethod
    def read(cls, path: Path, nprobe: int) -> FaissIndex:
        """Read an index file; raises BundleError naming it."""
        try:
            index = faiss.read_index(str(path))
            if index.metric_type != faiss.METRIC_INNER_PRODUCT:
                raise BundleError(path.name, "is not over inner products")
            return cls(index, nprobe)
        except (RuntimeError, ValueError) as error:
            raise BundleError(path.name, f"cannot be opened: {str(error).splitlines()[0]}") from error

    def write(self, path: Path) -> None:
        """Write the index file."""
        faiss.write_index(self._index, str(path))

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
        """Return candidate rows, int64 [B, count], -1 where there are fewer (see `VectorIndex.search`)."""
        queries = np.ascontiguousarray(queries, np.float32)
        if len(queries) == 0:
            return np.empty((0, count), np.int64)
        selector = None if allowed is None else faiss.IDSelectorBitmap(allowed)
        _, rows = self._index.search(queries, count, params=self._parameters(selector))
        return np.asarray(rows, np.int64)

    def _parameters(self, selector: Any) -> Any:
        extra = {} if selector is None else {"sel": selector}
        if self._has_lists:
            # A filter thins every list out, so a restricted search probes more of them for the same recall.
            nprobe = self._nprobe if selector is None else min(self._nprobe * 4, self._lists())
            inner = faiss.SearchParametersIVF(nprobe=nprobe, **extra)
        elif extra:
            inner = faiss.SearchParameters(**extra)
        else:
            return None
        return faiss.SearchParametersPreTransform(index_params=inner) if self._transformed else inner

    def _lists(self) -> int:
        index = faiss.downcast_index(self._index.index) if self._transformed else self._index
        return int(index.nlist)


def set_threads(count: int) -> None:
    """Set how many threads a search by the calling thread uses."""
    faiss.omp_set_num_threads(count)
