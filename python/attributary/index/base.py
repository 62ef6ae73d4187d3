"""What a vector index is: unit vectors in, rows of the nearest items out."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class VectorIndex(Protocol):
    """Finds candidates by inner product. Rows are int64 positions in the bundle's vector store, from 0."""

    @property
    def dim(self) -> int:
        """D, dimensions of a vector."""
        ...

    @property
    def size(self) -> int:
        """How many rows are indexed."""
        ...

    def search(
        self, queries: NDArray[np.float32], count: int, allowed: NDArray[np.uint8] | None = None
    ) -> NDArray[np.int64]:
        """Return candidate rows, int64 [B, count], in no promised order, -1 where there are fewer.

        `queries` is float32 [B, D]; `allowed` a bitmap over the rows, uint8 [ceil(size / 8)], least significant bit
        first: rows whose bit is 0 are never returned. Candidates are meant to be re-scored exactly by the caller.
        """
        ...
