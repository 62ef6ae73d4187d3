"""Files that hold tables: Parquet, streamed page by page whatever the size of a row group, and Arrow IPC."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

# Column chunks are read through a buffer of this size instead of whole: a row group may be gigabytes.
_BUFFER = 1 << 20


class TableFile(ABC):
    """A table in a file, read in stretches that begin at `_starts`. Raises what Arrow raises."""

    schema: pa.Schema
    rows: int
    _starts: list[int]

    def group(self, row: int) -> int:
        """The first row of the stretch that has to be read for this one."""
        return max((start for start in self._starts if start <= row), default=0)

    @abstractmethod
    def batches(self, start: int, size: int, columns: list[str]) -> Iterator[pa.RecordBatch]:
        """Yield rows from the start of a stretch to the end, at most `size` at a time."""

    @abstractmethod
    def close(self) -> None:
        """Close the file."""


def open_table(path: Path, kind: str) -> TableFile:
    """Open a table file of a kind of `inputs.py`."""
    return _Parquet(path) if kind == "parquet" else _Arrow(path)


class _Parquet(TableFile):
    def __init__(self, path: Path) -> None:
        # Threads of Arrow's own would take cores from the engine's.
        self._file = pq.ParquetFile(
            path, buffer_size=_BUFFER, pre_buffer=False, page_checksum_verification=True
        )
        self.schema, metadata = self._file.schema_arrow, self._file.metadata
        lengths = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        *self._starts, self.rows = accumulate(lengths, initial=0)

    def batches(self, start: int, size: int, columns: list[str]) -> Iterator[pa.RecordBatch]:
        groups = [group for group, at in enumerate(self._starts) if at >= start]
        if groups and columns:
            yield from self._file.iter_batches(size, row_groups=groups, columns=columns, use_threads=False)

    def close(self) -> None:
        self._file.close()


class _Arrow(TableFile):
    """Mapped into memory: what is not looked at is not read."""

    def __init__(self, path: Path) -> None:
        self._map = pa.memory_map(str(path))
        try:
            file = pa.ipc.open_file(self._map)
            self.schema = file.schema
            self._batch: Callable[[int], pa.RecordBatch] = file.get_batch
            lengths = [len(file.get_batch(number)) for number in range(file.num_record_batches)]
        except pa.ArrowInvalid:
            self._map.seek(0)
            stream = pa.ipc.open_stream(self._map)
            parts = list(stream)
            self.schema, self._batch = stream.schema, parts.__getitem__
            lengths = [len(part) for part in parts]
        *self._starts, self.rows = accumulate(lengths, initial=0)

    def batches(self, start: int, size: int, columns: list[str]) -> Iterator[pa.RecordBatch]:
        for number, at in enumerate(self._starts):
            if at >= start:
                batch = _checked(self._batch(number).select(columns))
                yield from (batch.slice(row, size) for row in range(0, len(batch), size))

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
