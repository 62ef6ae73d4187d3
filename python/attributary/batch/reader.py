"""How an input is read: what every reader has, what those share that read from the beginning, and texts of files."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from typing import Any, ClassVar, Generic, TypeVar

import pyarrow as pa

from attributary.bundle.files import sha256
from attributary.errors import InputError

from .inputs import InputFile
from .naming import ending
from .picture_tables import facts_of, prompt_in
from .prompts import is_graph
from .rows import Batch, Fates, Problem, Row, Shard, invalid
from .settings import Settings
from .values import cast

MAX_TEXT_BYTES = 1 << 20
UNREADABLE = invalid("prompt", f"must be a readable UTF-8 file of at most {MAX_TEXT_BYTES} bytes")
_IDS_AT_ONCE = 4_096

Sample = TypeVar("Sample")


class Reader(ABC):
    """Reads one input: every member of it is a row, part of a row, or counted in `fates`. One thread at a time."""

    fixed: ClassVar[pa.Schema] = pa.schema([])  # the pass-through columns of a kind that always has the same
    passed: pa.Schema  # the pass-through columns

    def __init__(self, file: InputFile, settings: Settings) -> None:
        self._file, self._settings = file, settings
        self.fates = Fates()  # members that are no rows; complete once `ids` has run
        if self.fixed.names:
            self.passed = self._chosen()

    @abstractmethod
    def ids(self) -> Iterator[list[str]]:
        """Yield every row's generation id in order, many at a time."""

    @abstractmethod
    def batches(self, shard: Shard, size: int) -> Iterator[Batch]:
        """Yield a shard's rows, `size` at a time; raises InputError naming the rows that cannot be read."""

    def place(self, row: int) -> tuple[int, int]:
        """(offset, skip) of a shard that begins at this row; known after `ids`. What is read by row has none."""
        return 0, 0

    def named(self) -> Iterator[str]:
        """Yield every path and URI that the rows name."""
        return iter(())

    def digest(self) -> tuple[int, str]:
        """(bytes, SHA-256) of everything that the rows are read from; raises OSError."""
        return self._file.path.stat().st_size, sha256(self._file.path)

    def close(self) -> None:  # noqa: B027 - most have nothing open
        """Close what is open."""

    def conformed(self, shard: Shard, size: int, columns: pa.Schema) -> Iterator[Batch]:
        """Yield `batches` with a run's pass-through columns, in their order and types."""
        partition = dict(self._file.partition)

        def column(found: pa.RecordBatch, field: pa.Field[Any]) -> Any:
            if field.name in found.schema.names:
                return cast(found.column(field.name), field.type)
            value = partition.get(field.name, partition.get(field.name.removeprefix("log_")))
            return cast(pa.array([value] * len(found)), field.type)

        for batch in self.batches(shard, size):
            arrays = [column(batch.passed, field) for field in columns]
            yield replace(batch, passed=pa.RecordBatch.from_arrays(arrays, schema=columns))

    def _chosen(self) -> pa.Schema:
        there, wanted = self.fixed, self._settings.pass_through
        for name in wanted or ():
            if name not in there.names and name not in dict(self._file.partition):
                raise InputError(
                    self._file.name, f"is missing; it has {', '.join(there.names)}", f"column {name}"
                )
        if wanted is None:
            return there
        return pa.schema([there.field(name) for name in wanted if name in there.names])


class StreamReader(Reader, Generic[Sample]):
    """Reads an input whose samples follow one another; remembers where each shard's first one is."""

    fixed = pa.schema([pa.field("prompt", pa.string()), pa.field("metadata", pa.string())])
    what: ClassVar[str]  # its samples, in the plural

    @abstractmethod
    def samples(self, offset: int, counted: bool) -> Iterator[tuple[int, int, Sample]]:
        """Yield (byte to read it from again, samples before it there, sample) from a byte on.

        `counted`: data is not needed; what is no sample is counted in `fates`.
        """

    @abstractmethod
    def id_of(self, sample: Sample, number: int) -> str:
        """Id of the sample with this number."""

    @abstractmethod
    def row_of(self, sample: Sample, number: int) -> tuple[Row, str | None]:
        """The row of a sample, and what is passed through as `metadata`."""

    def ids(self) -> Iterator[list[str]]:
        """Yield every sample's id; sees, too, that the input ends as its kind does."""
        self._places: list[tuple[int, int]] = []
        self.fates = Fates()
        found: list[str] = []
        for number, (offset, before, sample) in enumerate(self.samples(0, True)):
            if number % self._settings.rows_per_shard == 0:
                self._places.append((offset, before))
            found.append(self.id_of(sample, number))
            if len(found) == _IDS_AT_ONCE:
                yield found
                found = []
        yield found

    def place(self, row: int) -> tuple[int, int]:
        """(byte to read from, samples before the shard's first one there)."""
        return self._places[row // self._settings.rows_per_shard]

    def batches(self, shard: Shard, size: int) -> Iterator[Batch]:
        """Yield the shard's samples, `size` at a time."""
        samples = islice(self.samples(shard.offset, False), shard.skip, None)
        stop = shard.start + shard.rows
        for start in range(shard.start, stop, size):
            numbers = range(start, min(start + size, stop))
            made = [
                self.row_of(sample, number) for number, (*_, sample) in zip(numbers, samples, strict=False)
            ]
            if len(made) < len(numbers):
                raise InputError(
                    self._file.name, f"has fewer {self.what} than before", f"row {start + len(made)}"
                )
            passed = pa.RecordBatch.from_pylist(
                [{"metadata": metadata} for _, metadata in made], schema=self.passed
            )
            yield Batch([row for row, _ in made], passed, fills_prompt="prompt" in self.passed.names)


def prompt_of_file(name: str, data: bytes) -> tuple[str, str | None, Problem | None]:
    """(prompt, model, problem) of the contents of a .txt, .caption or .json."""
    text = None if len(data) > MAX_TEXT_BYTES else decoded(data)
    if text is None:
        return "", None, UNREADABLE
    if ending(name) != ".json":
        return text.strip(), None, None
    facts = facts_of(text)
    if facts is None:
        return "", None, invalid("prompt", "must be a JSON object where it stands in a .json")
    model = facts.get("model_id")
    # A generator's graph, or SwarmUI's parameters, saved as they are.
    prompt = prompt_in(facts) or (text if is_graph(facts) or "sui_image_params" in facts else "")
    return prompt, model if isinstance(model, str) else None, None


def decoded(data: bytes) -> str | None:
    """Text of a file in UTF-8 or, with its mark before it, UTF-16; None for anything else."""
    try:
        if data.startswith((b"\xff\xfe", b"\xfe\xff")):
            return data.decode("utf-16")
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return None
