"""Parquet logs: rows streamed page by page, whatever the size of a row group."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from attributary.errors import InputError

from .inputs import InputFile
from .reading import Shard, invalid, nameless
from .rows import Batch, Problem, Row
from .settings import IMAGE_COLUMNS, Columns

_IDS_AT_ONCE = 65_536
# Column chunks are read through a buffer of this size instead of whole: a row group may be gigabytes.
_BUFFER = 1 << 20


class ParquetInput:
    """One Parquet file of a log. Raises InputError naming the column that is missing or of a wrong type."""

    def __init__(self, file: InputFile, columns: Columns, pass_through: tuple[str, ...] | None) -> None:
        self._file = file
        with self._reading("its footer"):
            # Threads of Arrow's own would take cores from the engine's.
            self._parquet = pq.ParquetFile(
                file.path, buffer_size=_BUFFER, pre_buffer=False, page_checksum_verification=True
            )
        self._schema = self._parquet.schema_arrow
        self._columns = self._resolve(columns)
        self.passed = self._passed(pass_through)
        self._groups = _starts(self._parquet.metadata)
        self._cursor: Iterator[pa.RecordBatch] = iter(())
        self._at = -1  # row that the cursor stands before; -1 for none
        self._rest: pa.RecordBatch | None = None

    @property
    def rows(self) -> int:
        """Rows in the file."""
        return int(self._parquet.metadata.num_rows)

    def ids(self) -> Iterator[list[str]]:
        """Yield every row's generation id; a null one is named by its place."""
        start = 0
        with self._reading(f"column {self._columns.id}"):
            for batch in self._parquet.iter_batches(
                _IDS_AT_ONCE, columns=[self._columns.id], use_threads=False
            ):
                yield [found for found, _ in self._ids_of(batch.column(0), start)]
                start += len(batch)

    def offset(self, row: int) -> int:
        """Parquet is read by row: always 0."""
        return 0

    def batches(self, shard: Shard, size: int) -> Iterator[Batch]:
        """Yield the shard's rows, `size` at a time; a following shard goes on where this one ended."""
        self._seek(shard.start, size)
        done = 0
        while done < shard.rows:
            count = min(size, shard.rows - done)
            start = shard.start + done
            with self._reading(f"rows {start} to {start + count - 1}"):
                taken = self._take(count)
            yield Batch(self._rows(taken, start), self._plain(taken))
            done += count

    def close(self) -> None:
        """Close the file."""
        self._parquet.close()

    def _seek(self, row: int, size: int) -> None:
        if 0 <= self._at <= row and self._group(self._at) == self._group(row):
            skip = row - self._at
        else:
            group = self._group(row)
            self._cursor = self._parquet.iter_batches(
                size,
                row_groups=list(range(group, self._parquet.metadata.num_row_groups)),
                columns=self._read_columns(),
                use_threads=False,
            )
            self._rest, skip = None, row - self._groups[group]
            self._at = self._groups[group]
        while skip > 0:
            count = min(skip, size)
            with self._reading(f"rows {self._at} to {self._at + count - 1}"):
                self._take(count)
            skip -= count

    def _take(self, count: int) -> pa.RecordBatch:
        """Return the next `count` rows; Arrow's own batches end where a row group or a page does."""
        parts = []
        missing = count
        while missing:
            if self._rest is None or not len(self._rest):
                self._rest = next(self._cursor, None)
                if self._rest is None:
                    raise pa.ArrowInvalid(f"it holds {missing} rows fewer than its footer says")
            part = self._rest.slice(0, missing)
            self._rest = self._rest.slice(len(part))
            parts.append(part)
            missing -= len(part)
        self._at += count
        return parts[0] if len(parts) == 1 else pa.Table.from_batches(parts).combine_chunks().to_batches()[0]

    def _group(self, row: int) -> int:
        return max(number for number, start in enumerate(self._groups) if start <= row)

    def _rows(self, taken: pa.RecordBatch, start: int) -> list[Row]:
        columns = self._columns
        assert columns.image is not None
        ids = self._ids_of(taken.column(columns.id), start)
        pictures = _pictures(taken.column(columns.image))
        prompts = _texts(taken, columns.prompt, "prompt")
        models = _texts(taken, columns.model, "model_id")
        base = str(self._file.path.parent)
        rows = []
        for place, (generation_id, wrong_id) in enumerate(ids):
            image, uri, wrong_image = pictures[place]
            prompt, wrong_prompt = prompts[place]
            model, wrong_model = models[place]
            problem = wrong_id or wrong_image or wrong_prompt or wrong_model
            rows.append(Row(generation_id, model, prompt or "", image, uri, base, problem))
        return rows

    def _ids_of(self, column: pa.Array[Any], start: int) -> list[tuple[str, Problem | None]]:
        found: list[tuple[str, Problem | None]] = []
        for place, (text, problem) in enumerate(_decoded(column, "generation_id")):
            if text:
                found.append((text, problem))
            else:
                wrong = problem or invalid("generation_id", "is null" if text is None else "is empty")
                found.append((nameless(self._file.name, start + place), wrong))
        return found

    def _plain(self, taken: pa.RecordBatch) -> pa.RecordBatch:
        # Dictionaries differ with where a read began; the contract is about bytes.
        arrays = [taken.column(field.name).cast(field.type) for field in self.passed]
        return pa.RecordBatch.from_arrays(arrays, schema=self.passed)

    def _read_columns(self) -> list[str]:
        columns = self._columns
        wanted = [columns.id, columns.image, columns.prompt, columns.model, *self.passed.names]
        return list(dict.fromkeys(name for name in wanted if name is not None))

    def _resolve(self, columns: Columns) -> Columns:
        names = self._schema.names
        doubled = next((name for name in names if names.count(name) > 1), None)
        if doubled is not None:
            raise InputError(self._file.name, "is there twice", f"column {doubled}")
        self._check(columns.id, lambda kind: _is_text(kind) or pa.types.is_integer(kind), "text or integers")
        image = columns.image or next((name for name in IMAGE_COLUMNS if name in names), None)
        if image is None:
            raise InputError(
                self._file.name, f"none of {', '.join(IMAGE_COLUMNS)} is there; name it", "columns"
            )
        found = Columns(
            columns.id,
            image,
            columns.prompt or ("prompt" if "prompt" in names else None),
            columns.model or ("model_id" if "model_id" in names else None),
        )
        self._check(
            image, _is_image, "binary (encoded pictures), text (paths or URIs) or a struct of bytes and path"
        )
        for name in (found.prompt, found.model):
            if name is not None:
                self._check(name, _is_text, "text")
        return found

    def _check(self, name: str, fits: Any, wanted: str) -> None:
        if name not in self._schema.names:
            there = ", ".join(self._schema.names)
            raise InputError(self._file.name, f"is missing; there are {there}", f"column {name}")
        kind = self._schema.field(name).type
        if not fits(kind):
            raise InputError(self._file.name, f"must be {wanted}, is {kind}", f"column {name}")

    def _passed(self, wanted: tuple[str, ...] | None) -> pa.Schema:
        columns = self._columns
        # A picture's address is worth keeping; its bytes are not.
        assert columns.image is not None
        bytes_inside = not _is_text(self._schema.field(columns.image).type)
        read = {columns.id, columns.model} | ({columns.image} if bytes_inside else set())
        names = [name for name in self._schema.names if name not in read] if wanted is None else list(wanted)
        for name in names:
            self._check(name, lambda kind: True, "")
        fields = [self._schema.field(name) for name in names]
        return pa.schema([pa.field(field.name, _plain_type(field.type)) for field in fields])

    @contextmanager
    def _reading(self, what: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise InputError(self._file.name, "does not exist") from None
        except (pa.ArrowException, OSError, ValueError) as error:
            # ValueError: names and texts that a flipped bit has made invalid UTF-8.
            raise InputError(self._file.name, f"cannot be read: {error}", what) from error


def _starts(metadata: pq.FileMetaData) -> list[int]:
    starts, row = [], 0
    for group in range(metadata.num_row_groups):
        starts.append(row)
        row += metadata.row_group(group).num_rows
    return starts or [0]


def _plain_type(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_null(kind):
        # What writers give a text column that holds nothing but nulls.
        return pa.string()
    return kind.value_type if isinstance(kind, pa.DictionaryType) else kind


def _is_text(kind: pa.DataType) -> bool:
    kind = _plain_type(kind)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _is_binary(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind)
    )


def _is_image(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return {"bytes", "path"} <= {kind.field(place).name for place in range(kind.num_fields)}
    return _is_binary(kind) or _is_text(kind)


def _decoded(column: pa.Array[Any], field: str) -> list[tuple[str | None, Problem | None]]:
    """Text of a column; what is no valid UTF-8 is a problem of its row alone."""
    kind = _plain_type(column.type)
    if pa.types.is_integer(kind):
        return [(None if value is None else str(value), None) for value in column.to_pylist()]
    values = column.cast(kind).cast(pa.large_string()).cast(pa.large_binary()).to_pylist()
    found: list[tuple[str | None, Problem | None]] = []
    for value in values:
        try:
            found.append((None if value is None else value.decode(), None))
        except UnicodeDecodeError:
            found.append((None, invalid(field, "is not valid UTF-8")))
    return found


def _texts(taken: pa.RecordBatch, name: str | None, field: str) -> list[tuple[str | None, Problem | None]]:
    return [(None, None)] * len(taken) if name is None else _decoded(taken.column(name), field)


def _pictures(column: pa.Array[Any]) -> list[tuple[bytes | None, str | None, Problem | None]]:
    """(bytes, path or URI, problem) of each row."""
    if isinstance(column, pa.StructArray):
        whole = _pictures(column.field("bytes"))
        paths = _pictures(column.field("path"))
        return [by_bytes if by_bytes[0] is not None else paths[row] for row, by_bytes in enumerate(whole)]
    missing = invalid("image", "is null")
    if _is_binary(column.type):
        return [(value, None, missing if value is None else None) for value in column.to_pylist()]
    return [
        (None, text, problem or (missing if text is None else None))
        for text, problem in _decoded(column, "image")
    ]
