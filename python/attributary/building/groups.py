"""Near-duplicate groups of a corpus that names none, by the rule that additions are held to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import faiss
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from attributary.bundle.items import GROUP
from attributary.pictures.looks import SAME, compared, strengths

# Items above which pairs come from an inverted file, which may miss some.
EXACT = 50_000
_ADDED = 8192  # rows that are float32 at a time


def grouped(table: pa.Table, looks: NDArray[np.int8]) -> pa.Table:
    """An item table with its groups, by what the items look like, int8 [N, *LOOK].

    Groups are the connected parts of the graph of pairs; of one creator only pictures that are the same without
    turning count. An item's group is the row of the oldest member.
    """
    creators = table["creator"].to_pylist()

    def same(one: int, other: int) -> bool:
        upright, turned = compared(looks[one], looks[other])
        return bool(upright >= SAME or (turned >= SAME and creators[one] != creators[other]))

    groups = pa.array(components((pair for pair in _near(looks) if same(*pair)), len(looks)), pa.int64())
    return table.set_column(table.schema.get_field_index(GROUP), table.schema.field(GROUP), groups)


def components(pairs: Iterable[tuple[int, int]], count: int) -> list[int]:
    """The smallest row of each row's part of the graph of `pairs`, `count` rows in all."""
    parent = list(range(count))

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    for one, other in pairs:
        first, second = sorted((root(one), root(other)))
        parent[second] = first
    return [root(row) for row in range(count)]


def _near(looks: NDArray[np.int8]) -> list[tuple[int, int]]:
    """Pairs of rows, the smaller first, whose frequencies are of the same strength."""
    found: set[tuple[int, int]] = set()
    for kind in range(looks.shape[1]):
        for left, right in alike(strengths(looks[:, kind]), SAME, block=256):
            found.update(zip(left.tolist(), right.tolist(), strict=True))
    return sorted(found)


def alike(
    vectors: NDArray[np.floating], least: float, *, block: int, exact: int = EXACT
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Pairs of rows of [N, D], the smaller first, whose inner product is `least` or more, of `block` rows at a time.

    Above `exact` rows they are sought in the 16 nearest cells of an inverted file, which may miss some.
    """
    index = _index(vectors, exact)
    for start in range(0, len(vectors), block):
        asked = vectors[start : start + block].astype(np.float32)
        limits, _, right = index.range_search(asked, least)
        left = start + np.repeat(np.arange(len(asked)), np.diff(limits.astype(np.int64)))
        ahead = left < right
        yield left[ahead], right[ahead]


def _index(vectors: NDArray[np.floating], exact: int) -> faiss.Index:
    dim = vectors.shape[1]
    if len(vectors) <= exact:
        index: faiss.Index = faiss.IndexFlatIP(dim)
    else:
        cells = int(4 * np.sqrt(len(vectors)))
        index = faiss.IndexIVFFlat(faiss.IndexFlatIP(dim), dim, cells, faiss.METRIC_INNER_PRODUCT)
        index.nprobe = 16
        index.train(vectors[:: max(len(vectors) // (40 * cells), 1)].astype(np.float32))
    for start in range(0, len(vectors), _ADDED):
        index.add(vectors[start : start + _ADDED].astype(np.float32))
    return index
