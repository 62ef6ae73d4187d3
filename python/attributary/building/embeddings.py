"""Embeddings that exist already, read in blocks: `.npy`, Parquet, and the folders that clip-retrieval leaves.

Given, and where vectors and items are found:
  vectors.npy                         float [N, D]; items in a Parquet file of N rows, given apart
  a folder, as clip-retrieval's       img_emb/*.npy and metadata/*.parquet, or both kinds side by side, in the order
                                      of the numbers in their names
  Parquet, one file or a folder       a column `embedding` of lists; the other columns are the items'

Nothing is held whole: vectors are mapped or read batch by batch, so memory does not grow with N.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from attributary.errors import InvalidArgumentError

FIELD = "embeddings"
COLUMN = "embedding"
BLOCK = 65_536


@dataclass(frozen=True)
class Embeddings:
    """Files of embeddings and of the items that they are of; row i of one belongs to row i of the other."""

    vectors: Sequence[Path]  # .npy, or Parquet with a column `embedding`
    tables: Sequence[Path]  # Parquet; the same files where the embeddings are a column
    rows: int
    dim: int

    def blocks(self, start: int = 0) -> Iterator[NDArray[np.float32]]:
        """Unit vectors from row `start` on, float32 [n, D], n at most 65,536; refused by file and row if not finite."""
        for path, first, block in self._raw(start):
            length = np.linalg.norm(block, axis=1)
            if not np.isfinite(length).all() or not (length > 0).all():
                row = first + int(np.flatnonzero(~(np.isfinite(length) & (length > 0)))[0])
                raise InvalidArgumentError(FIELD, f"{path}: row {row} is zero or not finite")
            yield block / length[:, None]

    def table(self) -> pa.Table:
        """The items' facts, all rows, without the embeddings. Raises InvalidArgumentError naming a file."""
        return pa.concat_tables(
            [_read(path, _other_columns(path)) for path in self.tables], promote_options="permissive"
        )

    def fingerprint(self) -> list[list[str | int]]:
        """Names, sizes and times of the files: whether a build that was stopped may go on."""
        files = dict.fromkeys([*self.vectors, *self.tables])
        return [[str(path), path.stat().st_size, path.stat().st_mtime_ns] for path in files]

    def _raw(self, start: int) -> Iterator[tuple[Path, int, NDArray[np.float32]]]:
        """Blocks of float32 [n, D] from row `start` on, each with its file and its first row there."""
        passed = 0
        for path in self.vectors:
            count = _rows(path)
            first = max(start - passed, 0)
            passed += count
            if first >= count:
                continue
            if path.suffix == ".npy":
                mapped = np.load(path, mmap_mode="r", allow_pickle=False)
                for at in range(first, count, BLOCK):
                    yield path, at, np.asarray(mapped[at : at + BLOCK], np.float32)
            else:
                at = 0
                for batch in pq.ParquetFile(path).iter_batches(BLOCK, columns=[COLUMN]):
                    block = _lists(batch.column(0), self.dim, path)
                    skip = max(first - at, 0)
                    if skip < len(block):
                        yield path, at + skip, block[skip:]
                    at += len(block)


def open_embeddings(path: Path, items: Path | None = None) -> Embeddings:
    """Find the files of a layout; raises InvalidArgumentError naming shapes or counts that do not agree."""
    vectors, tables = _found(path, items)
    shapes = [_shape(one) for one in vectors]
    dims = {dim for _, dim in shapes}
    if len(dims) > 1:
        raise InvalidArgumentError(
            FIELD, f"{path} holds vectors of different lengths: {', '.join(map(str, sorted(dims)))}"
        )
    rows, described = sum(count for count, _ in shapes), sum(_rows(one) for one in tables)
    if rows != described:
        raise InvalidArgumentError(
            FIELD, f"{path} holds {rows} vectors, the tables describe {described} items"
        )
    if rows == 0:
        raise InvalidArgumentError(FIELD, f"{path} holds no vectors")
    if len(vectors) == len(tables):
        for one, other, (count, _) in zip(vectors, tables, shapes, strict=True):
            if _rows(other) != count:
                raise InvalidArgumentError(
                    FIELD, f"{one} holds {count} vectors, {other} describes {_rows(other)} items"
                )
    return Embeddings(vectors, tables, rows, dims.pop())


def _found(path: Path, items: Path | None) -> tuple[list[Path], list[Path]]:
    """The files of vectors and of items' facts."""
    if path.is_file():
        if path.suffix == ".npy":
            if items is None:
                raise InvalidArgumentError(
                    FIELD, f"{path} says nothing of its items; give --items items.parquet"
                )
            return [path], [_file(items)]
        return [path], [items or path]
    if not path.is_dir():
        raise InvalidArgumentError(FIELD, f"{path} does not exist")
    under = path / "img_emb" if (path / "img_emb").is_dir() else path
    vectors = _numbered(under, "*.npy")
    facts = path / "metadata" if (path / "metadata").is_dir() else path
    tables = [_file(items)] if items else _numbered(facts, "*.parquet")
    if not vectors:
        vectors = _numbered(path, "*.parquet")
    if not vectors or not tables:
        missing = "vectors (*.npy or *.parquet)" if not vectors else "tables of items (*.parquet)"
        raise InvalidArgumentError(FIELD, f"{path} has no {missing}")
    return vectors, tables


def _file(path: Path) -> Path:
    if not path.is_file():
        raise InvalidArgumentError("items", f"{path} does not exist")
    return path


def _numbered(folder: Path, pattern: str) -> list[Path]:
    """Files by the numbers in their names: part 10 comes after part 9. Those a tool hides are left out."""
    found = [path for path in folder.glob(pattern) if not path.name.startswith((".", "_"))]
    return sorted(
        found,
        key=lambda path: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.name)],
    )


def _shape(path: Path) -> tuple[int, int]:
    """Rows and dimensions of a file of vectors."""
    if path.suffix == ".npy":
        try:
            mapped = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise InvalidArgumentError(FIELD, f"{path} cannot be read: {error}") from error
        if mapped.ndim != 2 or mapped.dtype.kind != "f" or mapped.shape[1] == 0:
            raise InvalidArgumentError(
                FIELD, f"{path} must hold floats [N, D], is {mapped.dtype} {list(mapped.shape)}"
            )
        return int(mapped.shape[0]), int(mapped.shape[1])
    file = _parquet(path)
    if COLUMN not in file.schema_arrow.names:
        raise InvalidArgumentError(FIELD, f"{path} has no column {COLUMN!r}")
    first = next(file.iter_batches(1, columns=[COLUMN]), None)
    if first is None:
        raise InvalidArgumentError(FIELD, f"{path} holds no rows")
    value = first.column(0)[0].as_py()
    if not isinstance(value, list) or not value:
        raise InvalidArgumentError(
            FIELD, f"{path}: column {COLUMN} must hold lists of floats, is {first.column(0).type}"
        )
    return int(file.metadata.num_rows), len(value)


def _rows(path: Path) -> int:
    if path.suffix == ".npy":
        return int(np.load(path, mmap_mode="r", allow_pickle=False).shape[0])
    return int(_parquet(path).metadata.num_rows)


def _parquet(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise InvalidArgumentError(FIELD, f"{path} cannot be read: {error}") from error


def _other_columns(path: Path) -> list[str]:
    return [name for name in _parquet(path).schema_arrow.names if name != COLUMN]


def _read(path: Path, columns: list[str]) -> pa.Table:
    try:
        return pq.ParquetFile(path).read(columns)
    except (OSError, pa.ArrowException) as error:
        raise InvalidArgumentError("items", f"{path} cannot be read: {error}") from error


def _lists(column: pa.Array[Any], dim: int, path: Path) -> NDArray[np.float32]:
    """A column of equally long lists as float32 [n, D]."""
    if column.null_count or set(pc.unique(pc.list_value_length(column)).to_pylist()) != {dim}:
        raise InvalidArgumentError(
            FIELD, f"{path}: column {COLUMN} holds nulls or lists of other lengths than {dim}"
        )
    values = pc.list_flatten(column).cast(pa.float32())
    return np.asarray(values.to_numpy(zero_copy_only=False), np.float32).reshape(-1, dim)
