"""What items look like, from their pictures or as a table of them says; and small pictures of them, for people."""

from __future__ import annotations

import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from attributary.bundle.items import ITEMS, LOOK, LOOK_COLUMN
from attributary.errors import InvalidArgumentError
from attributary.pictures.looks import look_of

from .embed import read_picture
from .source import Source, pictures_of, read_source

_THREADS = 2
SIDE: Final = 160
_QUALITY: Final = 80


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


def pictured(
    corpus: Path, ids: NDArray[np.int64] | None = None, licences: tuple[str, ...] = ()
) -> dict[int, Path]:
    """Where the pictures lie that a bundle may show, by item id: all, or those of items under `licences` alone.

    Raises InvalidArgumentError if `corpus` is no directory with pictures.
    """
    if not corpus.is_dir():
        raise InvalidArgumentError(
            "thumbnails", f"{corpus} is no corpus directory: there are no pictures in it"
        )
    return pictured_in(read_source(corpus), ids, licences)


def pictured_in(
    source: Source, ids: NDArray[np.int64] | None = None, licences: tuple[str, ...] = ()
) -> dict[int, Path]:
    """The same of a source that was read before."""
    ids_of_rows: list[int] = source.table.column("id").to_numpy().tolist()
    licences_of_rows = source.table.column("licence").to_pylist()
    wanted = None if ids is None else set(ids.tolist())
    return {
        item_id: path
        for item_id, licence, path in zip(ids_of_rows, licences_of_rows, source.pictures, strict=True)
        if (wanted is None or item_id in wanted) and (not licences or licence in licences)
    }


def shrunk(pictures: dict[int, Path]) -> Iterator[tuple[int, bytes]]:
    """Yield (id, WebP) with the long side at most `SIDE` pixels, by ascending id; raises InvalidArgumentError."""
    for item_id in sorted(pictures):
        picture = Image.fromarray(read_picture(pictures[item_id], None))
        picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
        out = io.BytesIO()
        picture.save(out, "WEBP", quality=_QUALITY)
        yield item_id, out.getvalue()
