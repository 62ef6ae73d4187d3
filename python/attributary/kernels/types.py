"""Array types and results of the kernels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

UInt8Array: TypeAlias = NDArray[np.uint8]
Int8Array: TypeAlias = NDArray[np.int8]
Int32Array: TypeAlias = NDArray[np.int32]
Int64Array: TypeAlias = NDArray[np.int64]
Float16Array: TypeAlias = NDArray[np.float16]
Float32Array: TypeAlias = NDArray[np.float32]
# One bit a row, least significant bit first (np.packbits(..., bitorder="little")).
BoolBitmap: TypeAlias = NDArray[np.uint8]


# Columns of a query's calibration, float32 [Q, 9]; see `attributary.kernels.rescore`.
CALIBRATION: Final = (
    *("temperature", "threshold", "background", "floor", "foreign_below", "margin"),
    *("reach", "reach_cut", "reach_null"),
)


@dataclass(frozen=True, slots=True)
class Rescored:
    """What `rescore` returns for Q queries; k = top_k, c = top_creators. Unused places hold -1 and 0."""

    # [Q, k] visible rows of the vector store, by descending similarity, ties by ascending row.
    rows: Int64Array
    similarity: Float32Array  # [Q, k] cosine
    share: Float32Array  # [Q, k] in [0, 1]
    diffuse: Float32Array  # [Q] in [0, 1]; what belongs to nobody in particular
    withheld: Float32Array  # [Q] in [0, 1]; shares of candidates that are not visible
    peak: Float32Array  # [Q] largest similarity of all candidates, visible or not; 0 without any
    # [Q, c] codes of creators of visible rows, by descending total, ties by ascending code.
    creators: Int32Array
    creator_share: Float32Array  # [Q, c] totals over all visible candidates
    creator_items: Int32Array  # [Q, c] visible candidates of that creator with a share above 0

    @property
    def arrays(self) -> tuple[NDArray[Any], ...]:
        """Every array, in the order of the fields."""
        return (
            self.rows, self.similarity, self.share, self.diffuse, self.withheld, self.peak,
            self.creators, self.creator_share, self.creator_items,
        )  # fmt: skip

    @classmethod
    def room(cls, queries: int, top_k: int, top_creators: int) -> Rescored:
        """Allocate a result that the extension fills: nothing is set yet."""
        items, creators = (queries, top_k), (queries, top_creators)
        return cls(
            rows=np.empty(items, np.int64),
            similarity=np.empty(items, np.float32),
            share=np.empty(items, np.float32),
            diffuse=np.empty(queries, np.float32),
            withheld=np.empty(queries, np.float32),
            peak=np.empty(queries, np.float32),
            creators=np.empty(creators, np.int32),
            creator_share=np.empty(creators, np.float32),
            creator_items=np.empty(creators, np.int32),
        )

    @classmethod
    def empty(cls, queries: int, top_k: int, top_creators: int) -> Rescored:
        """Allocate a result whose places are all unused."""
        made = cls.room(queries, top_k, top_creators)
        made.clear()
        return made

    def clear(self) -> None:
        """Mark every place as unused."""
        for array, unused in zip(self.arrays, (-1, 0, 0, 1, 0, 0, -1, 0, 0), strict=True):
            array[...] = unused
