"""Tables of generations, a row each: Parquet, streamed whatever the size of a row group, and Arrow files."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from attributary.errors import InputError

from . import values
from .inputs import InputFile
from .reader import Reader
from .rows import OWN_COLUMNS, Batch, Problem, Row, Shard, invalid, nameless
from .settings import IMAGE_COLUMNS, PROMPT_COLUMNS, Columns, Settings

_IDS_AT_ONCE = 65_536
# Column chunks are read through a buffer of this size instead of whole: a row group may be gigabytes.
_BUFFER = 1 << 20


class TableInput(Reader):
    """One file of a log. Raises InputError naming the column that is missing or of a wrong type."""

    def __init__(self, file: InputFile, settings: Settings) -> None:
        super().__init__(file, settings)
        with self._reading("its footer"):
            self._table = open_table(file.path, file.kind)
        schema = self._table.schema
        doubled = next((name for name in schema.names if schema.names.count(name) > 1), None)
        if doubled is not None:
            raise InputError(file.name, "is there twice", f"column {doubled}")
        # A column of the file's own comes before one of its directory's.
        self._constants = {name: value for name, value in file.partition if name not in schema.names}
        self._own = list(schema.names)
        for name, value in self._constants.items():
            schema = schema.append(pa.field(name, pa.int64() if isinstance(value, int) else pa.string()))
        self._schema = schema
        self._columns = self._resolve(settings.columns)
        self._passed_from = self._sources(settings.pass_through)
        self.passed = pa.schema(
            [
                pa.field(out, values.plain_type(schema.field(name).type))
                for out, name in self._passed_from.items()
            ]
        )
        self._cursor: Iterator[pa.RecordBatch] = iter(())
        self._at = -1  # row that the cursor stands before; -1 for none
        self._rest: pa.RecordBatch | None = None

    def ids(self) -> Iterator[list[str]]:
        """Yield every row's generation id; one that has none is named by its place."""
        name = self._columns.id
        if name is None or name.partition(".")[0] in self._constants:
            for start in range(0, self._table.rows, _IDS_AT_ONCE):
                stop = min(start + _IDS_AT_ONCE, self._table.rows)
                yield [nameless(self._file.name, row) for row in range(start, stop)]
            return
        start = 0
        with self._reading(f"column {name}"):
            for batch in self._table.batches(0, _IDS_AT_ONCE, [self._root_of(name)]):
                yield [found for found, _ in self._ids_of(self._column(batch, name), start)]
                start += len(batch)

    def named(self) -> Iterator[str]:
        """Yield every path and URI that the rows name."""
        name = self._columns.image
        if name is None or values.is_binary(self._type(name) or pa.null()):
            return
        with self._reading(f"column {name}"):
            for batch in self._table.batches(0, _IDS_AT_ONCE, [self._root_of(name)]):
                for _, uri, _ in values.pictures(self._column(batch, name)):
                    if uri:
                        yield uri

    def batches(self, shard: Shard, size: int) -> Iterator[Batch]:
        """Yield the shard's rows, `size` at a time; a following shard goes on where this one ended."""
        self._seek(shard.start, size)
        done = 0
        while done < shard.rows:
            count = min(size, shard.rows - done)
            start = shard.start + done
            with self._reading(f"rows {start} to {start + count - 1}"):
                taken = self._take(count)
                rows, passed = self._rows(taken, start), self._passed(taken)
            yield Batch(rows, passed)
            done += count

    def close(self) -> None:
        """Close the file."""
        self._table.close()

    def _seek(self, row: int, size: int) -> None:
        group = self._table.group(row)
        if not (0 <= self._at <= row and self._table.group(self._at) == group):
            self._cursor = self._table.batches(group, size, self._read_columns())
            self._rest, self._at = None, group
        while self._at < row:
            count = min(row - self._at, size)
            with self._reading(f"rows {self._at} to {self._at + count - 1}"):
                self._take(count)

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
        return parts[0] if len(parts) == 1 else _together(parts)

    def _rows(self, taken: pa.RecordBatch, start: int) -> list[Row]:
        columns = self._columns
        ids = self._ids_of(None if columns.id is None else self._column(taken, columns.id), start, len(taken))
        assert columns.image is not None
        pictures = values.pictures(self._column(taken, columns.image))
        prompts = self._texts(taken, columns.prompt, "prompt")
        models = self._texts(taken, columns.model, "model_id")
        base, root = str(self._file.path.parent), str(self._file.root)
        use = "column" in self._settings.prompt_from
        rows = []
        for place, (generation_id, wrong_id) in enumerate(ids):
            image, uri, wrong_image = pictures[place]
            prompt, wrong_prompt = prompts[place]
            model, wrong_model = models[place]
            problem = wrong_id or wrong_image or wrong_prompt or wrong_model
            said = (prompt or "").strip() and use
            rows.append(
                Row(
                    generation_id, model, (prompt or "") if use else "", image, uri, base, problem,
                    "column" if said else "", root,
                )
            )  # fmt: skip
        return rows

    def _ids_of(
        self, column: pa.Array[Any] | None, start: int, count: int = 0
    ) -> list[tuple[str, Problem | None]]:
        if column is None:
            return [(nameless(self._file.name, start + place), None) for place in range(count)]
        found: list[tuple[str, Problem | None]] = []
        for place, (text, problem) in enumerate(values.names(column, "generation_id")):
            if text:
                found.append((text, problem))
            else:
                wrong = problem or invalid("generation_id", "is null" if text is None else "is empty")
                found.append((nameless(self._file.name, start + place), wrong))
        return found

    def _texts(
        self, taken: pa.RecordBatch, name: str | None, field: str
    ) -> list[tuple[str | None, Problem | None]]:
        return [(None, None)] * len(taken) if name is None else values.texts(self._column(taken, name), field)

    def _passed(self, taken: pa.RecordBatch) -> pa.RecordBatch:
        # Dictionaries differ with the row at which a read began, and the same rows must give the same bytes.
        arrays = []
        for field, source in zip(self.passed, self._passed_from.values(), strict=True):
            array = values.readable(values.cast(self._column(taken, source), field.type))
            if source == self._columns.image:
                # An address is worth keeping; a picture in its place is not.
                inside = [data is not None for data, _, _ in values.pictures(array)]
                array = pc.if_else(pa.array(inside, pa.bool_()), pa.scalar(None, field.type), array)
            arrays.append(array)
        return pa.RecordBatch.from_arrays(arrays, schema=self.passed)

    def _column(self, taken: pa.RecordBatch, name: str) -> Any:
        """A column, a constant of the file's directory, or a field of a struct by a dotted name."""
        if name in self._constants:
            return pa.array([self._constants[name]] * len(taken), self._schema.field(name).type)
        if name in self._own:
            return taken.column(name)
        root, *inside = name.split(".")
        return pc.struct_field(taken.column(root), inside)

    def _root_of(self, name: str) -> str:
        return name if name in self._own else name.partition(".")[0]

    def _read_columns(self) -> list[str]:
        columns = self._columns
        wanted = [columns.id, columns.image, columns.prompt, columns.model, *self._passed_from.values()]
        found = dict.fromkeys(self._root_of(name) for name in wanted if name is not None)
        return [name for name in found if name in self._own]

    def _resolve(self, columns: Columns) -> Columns:
        found = Columns(
            columns.id or self._first(("generation_id", "key", "__key__"), lambda kind: True),
            columns.image or self._first(IMAGE_COLUMNS, values.is_image),
            columns.prompt or self._first(PROMPT_COLUMNS, lambda kind: True),
            columns.model or self._first(("model_id",), lambda kind: True),
        )
        if found.image is None:
            there = next((name for name in IMAGE_COLUMNS if name in self._schema.names), None)
            if there is None:
                names = ", ".join(IMAGE_COLUMNS)
                raise InputError(self._file.name, f"none of {names} is there; name it", "columns")
            found = Columns(found.id, there, found.prompt, found.model)
        self._check(found.id, values.is_name, "text, UUIDs or integers")
        self._check(
            found.image,
            values.is_image,
            "binary (encoded pictures), text (paths or URIs) or a struct of bytes and path",
        )
        for name in (found.prompt, found.model):
            self._check(name, values.is_readable, "text")
        return found

    def _first(self, names: tuple[str, ...], fits: Callable[[pa.DataType], bool]) -> str | None:
        """The first of some columns that is there and fits; where none is, one that has its name but for capitals."""
        there = self._schema.names
        plain = {name.strip().casefold(): name for name in reversed(there)}
        found = [name for name in names if name in there] + [plain[name] for name in names if name in plain]
        return next((name for name in found if fits(self._schema.field(name).type)), None)

    def _type(self, name: str) -> Any:
        """Type of a column or of a field of a struct; None if there is none of the name."""
        if name in self._schema.names:
            return self._schema.field(name).type
        root, *inside = name.split(".")
        kind = self._schema.field(root).type if root in self._schema.names else None
        for part in inside:
            if kind is None or not pa.types.is_struct(kind) or kind.get_field_index(part) < 0:
                return None
            kind = kind.field(part).type
        return kind

    def _check(self, name: str | None, fits: Callable[[pa.DataType], bool], wanted: str) -> None:
        if name is None:
            return
        kind = self._type(name)
        if kind is None:
            there = ", ".join(self._schema.names)
            raise InputError(self._file.name, f"is missing; there are {there}", f"column {name}")
        if not fits(kind):
            raise InputError(self._file.name, f"must be {wanted}, is {kind}", f"column {name}")

    def _sources(self, wanted: tuple[str, ...] | None) -> dict[str, str]:
        """{output column: column} of what passes through; one with the name of an answer's is called log_*."""
        columns = self._columns
        assert columns.image is not None
        bytes_inside = not values.is_text(self._type(columns.image) or pa.null())
        read = {columns.id, columns.model} | ({columns.image} if bytes_inside else set())
        names = [
            name for name in self._schema.names if (name not in read if wanted is None else name in wanted)
        ]
        if wanted is not None:
            names.sort(key=wanted.index)
        found = {f"log_{name}" if name in OWN_COLUMNS else name: name for name in names}
        if len(found) < len(names):
            raise InputError(
                self._file.name, "is there under the name of an output column as well", "columns"
            )
        return found

    @contextmanager
    def _reading(self, what: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise InputError(self._file.name, "does not exist") from None
        except (pa.ArrowException, OSError, ValueError) as error:
            # ValueError: names and texts that a flipped bit has made invalid UTF-8.
            raise InputError(self._file.name, f"cannot be read: {error}", what) from error


def _together(parts: list[pa.RecordBatch]) -> pa.RecordBatch:
    table = pa.Table.from_batches(parts)
    found = table.combine_chunks().to_batches()
    return found[0] if len(found) == 1 else pa.RecordBatch.from_arrays(
        [pa.concat_arrays(column.chunks) for column in table.columns], schema=table.schema
    )  # fmt: skip


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
