"""Near-duplicate groups of a corpus that names none, by the rule that additions are held to."""

from __future__ import annotations

import faiss
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from attributary.bundle.items import GROUP
from attributary.pictures.looks import SAME, compared, strengths

_BLOCK = 256
# Items above which pairs come from an inverted file, which may miss some.
_EXACT = 50_000


def grouped(table: pa.Table, looks: NDArray[np.int8]) -> pa.Table:
    """An item table with its groups, by what the items look like, int8 [N, *LOOK].

    Groups are the connected parts of the graph of pairs; of one creator only pictures that are the same without
    turning count. An item's group is the row of the oldest member.
    """
    creators = table["creator"].to_pylist()
    parent = list(range(len(looks)))

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    for one, other in _near(looks):
        upright, turned = compared(looks[one], looks[other])
        if upright >= SAME or (turned >= SAME and creators[one] != creators[other]):
            first, second = sorted((root(one), root(other)))
            parent[second] = first
    groups = pa.array([root(row) for row in range(len(parent))], pa.int64())
    return table.set_column(table.schema.get_field_index(GROUP), table.schema.field(GROUP), groups)


def _near(looks: NDArray[np.int8]) -> list[tuple[int, int]]:
    """Pairs of rows, the smaller first, whose frequencies are of the same strength."""
    found: set[tuple[int, int]] = set()
    for kind in range(looks.shape[1]):
        one = strengths(looks[:, kind])
        index = _index(one)
        for start in range(0, len(one), _BLOCK):
            limits, _, rows = index.range_search(one[start : start + _BLOCK], SAME)
            left = start + np.repeat(np.arange(len(limits) - 1), np.diff(limits.astype(np.int64)))
            ahead = left < rows
            found.update(zip(left[ahead].tolist(), rows[ahead].tolist(), strict=True))
    return sorted(found)


def _index(vectors: NDArray[np.float32]) -> faiss.Index:
    if len(vectors) <= _EXACT:
        index: faiss.Index = faiss.IndexFlatIP(vectors.shape[1])
    else:
        cells = int(4 * np.sqrt(len(vectors)))
        index = faiss.IndexIVFFlat(
            faiss.IndexFlatIP(vectors.shape[1]), vectors.shape[1], cells, faiss.METRIC_INNER_PRODUCT
        )
        index.nprobe = 16
        index.train(vectors[:: max(len(vectors) // (40 * cells), 1)])
    index.add(vectors)
    return index
