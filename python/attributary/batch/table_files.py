"""Files that hold tables: Parquet, streamed page by page whatever the size of a row group, and Arrow IPC."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

# Column chunks are read through a buffer of this size instead of whole: a row group may be gigabytes.
_BUFFER = 1 << 20


class TableFile(Protocol):
    """A table in a file. Raises what Arrow raises."""

    schema: pa.Schema
    rows: int

    def group(self, row: int) -> int:
        """The first row of the stretch that has to be read for this one."""
        ...

    def batches(self, start: int, size: int, columns: list[str]) -> Iterator[pa.RecordBatch]:
        """Yield rows from the start of a stretch to the end, at most `size` at a time."""
        ...

    def close(self) -> None:
        """Close the file."""
        ...


def open_table(path: Path, kind: str) -> TableFile:
    """Open a table file of a kind of `inputs.py`."""
    return _Parquet(path) if kind == "parquet" else _Arrow(path)


class _Parquet:
    def __init__(self, path: Path) -> None:
        # Threads of Arrow's own would take cores from the engine's.
        self._file = pq.ParquetFile(
            path, buffer_size=_BUFFER, pre_buffer=False, page_checksum_verification=True
        )
        self.schema = self._file.schema_arrow
        metadata = self._file.metadata
        self.rows = int(metadata.num_rows)
        self._starts, row = [0], 0
        for group in range(metadata.num_row_groups):
            row += metadata.row_group(group).num_rows
            self._starts.append(row)

    def group(self, row: int) -> int:
        return max(start for start in self._starts[:-1] or [0] if start <= row)

    def batches(self, start: int, size: int, columns: list[str]) -> Iterator[pa.RecordBatch]:
        # Of groups without rows the last that begins there: the others have nothing.
        first = max(place for place, at in enumerate(self._starts) if at == start)
        groups = list(range(first, self._file.metadata.num_row_groups))
        if not groups or not columns:
            return
        yield from self._file.iter_batches(size, row_groups=groups, columns=columns, use_threads=False)

    def close(self) -> None:
        self._file.close()


class _Arrow:
    """Mapped into memory: what is not looked at is not read."""

    def __init__(self, path: Path) -> None:
        self._map = pa.memory_map(str(path))
        self._parts: Any
        try:
            self._parts = pa.ipc.open_file(self._map)
            count = self._parts.num_record_batches
            lengths = [self._parts.get_batch(number).num_rows for number in range(count)]
        except pa.ArrowInvalid:
            self._map.seek(0)
            stream = pa.ipc.open_stream(self._map)
            self._parts = _Batches(list(stream), stream.schema)
            lengths = [len(batch) for batch in self._parts.batches]
        self.schema = self._parts.schema
        self._starts = [0]
        for length in lengths:
            self._starts.append(self._starts[-1] + length)
        self.rows = self._starts.pop()

    def group(self, row: int) -> int:
        return max(start for start in self._starts or [0] if start <= row)

    def batches(self, start: int, size: int, columns: list[str]) -> Iterator[pa.RecordBatch]:
        for number, at in enumerate(self._starts):
            if at < start:
                continue
            batch = _checked(self._parts.get_batch(number).select(columns))
            for row in range(0, len(batch), size):
                yield batch.slice(row, size)

    def close(self) -> None:
        self._map.close()


def _checked(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Return a batch whose offsets lead into its buffers; raises ArrowInvalid. Arrow believes what a file says."""
    batch.validate()
    for column in batch.columns:
        # As bytes: text that is no Unicode is for its row to answer for.
        column.view(_as_bytes(column.type)).validate(full=True)
    return batch


def _as_bytes(kind: Any) -> Any:
    """A type of the same layout with bytes in the place of text."""
    same = {
        pa.string(): pa.binary(),
        pa.large_string(): pa.large_binary(),
        pa.string_view(): pa.binary_view(),
    }
    if kind in same:
        return same[kind]
    if pa.types.is_struct(kind):
        fields = [kind.field(place) for place in range(kind.num_fields)]
        return pa.struct([field.with_type(_as_bytes(field.type)) for field in fields])
    if type(kind) is pa.ListType:
        return pa.list_(kind.value_field.with_type(_as_bytes(kind.value_type)))
    if type(kind) is pa.LargeListType:
        return pa.large_list(kind.value_field.with_type(_as_bytes(kind.value_type)))
    return kind


class _Batches:
    def __init__(self, batches: list[pa.RecordBatch], schema: pa.Schema) -> None:
        self.batches, self.schema = batches, schema

    def get_batch(self, number: int) -> pa.RecordBatch:
        return self.batches[number]
