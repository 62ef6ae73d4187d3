"""What the items of a student look like: from their pictures, or as a table of them says."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from attributary.bundle.items import ITEMS, LOOK, LOOK_COLUMN
from attributary.errors import InvalidArgumentError
from attributary.pictures.looks import look_of

from .embed import read_picture
from .source import pictures_of

_THREADS = 2


def read_looks(corpus: Path, ids: NDArray[np.int64], size: int) -> NDArray[np.int8] | None:
    """Looks of items in their order, int8 [N, *LOOK], zeros for one that is not known; None where none is.

    `corpus` is a corpus directory, whose pictures are read at `size` pixels, the encoder's; or its items.parquet alone,
    with a column of looks or without. Raises InvalidArgumentError.
    """
    if corpus.is_file():
        return _of_table(corpus, ids)
    if not (corpus / "images").is_dir() and "file" not in pq.read_schema(corpus / ITEMS).names:
        return None
    with ThreadPoolExecutor(_THREADS) as pool:
        looks = np.stack(list(pool.map(lambda path: _look(path, size), pictures_of(corpus, ids))))
    return looks if looks.any() else None


def with_looks(table: pa.Table, looks: NDArray[np.int8] | None) -> pa.Table:
    """An item table with a column of looks."""
    if looks is None:
        return table
    values = pa.array([look.tobytes() if look.any() else b"" for look in looks], pa.binary())
    return table.append_column(LOOK_COLUMN, values)


def _look(path: Path, size: int) -> NDArray[np.int8]:
    # A student's bundle needs no pictures: an item whose file is gone is not recognised, and that is all.
    return look_of(read_picture(path, size)) if path.is_file() else np.zeros(LOOK, np.int8)


def _of_table(path: Path, ids: NDArray[np.int64]) -> NDArray[np.int8] | None:
    if LOOK_COLUMN not in pq.read_schema(path).names:
        return None
    table = pq.read_table(path, columns=["id", LOOK_COLUMN])
    known = dict(zip(table["id"].to_pylist(), table[LOOK_COLUMN].to_pylist(), strict=True))
    looks = np.zeros((len(ids), *LOOK), np.int8)
    for row, number in enumerate(ids.tolist()):
        raw = known.get(number) or b""
        if raw and len(raw) != looks[row].size:
            raise InvalidArgumentError(
                "corpus",
                f"{path}: {LOOK_COLUMN} of item {number} has {len(raw)} bytes, not {looks[row].size}",
            )
        if raw:
            looks[row] = np.frombuffer(raw, np.int8).reshape(LOOK)
    return looks if looks.any() else None
