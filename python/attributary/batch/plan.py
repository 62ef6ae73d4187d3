"""How a log is cut into shards: the same cut for the same files and settings, wherever it is made."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from attributary.bundle.files import sha256
from attributary.errors import InputError

from .folder_input import FolderInput
from .inputs import InputFile, find_inputs, text_of
from .parquet_input import ParquetInput
from .reading import Reader, Shard
from .settings import Settings
from .tar_input import TarInput

# Done, total: bytes of the inputs that were hashed.
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """One input file as it was when the run was planned."""

    file: InputFile
    rows: int
    bytes: int
    sha256: str  # of a folder: of its pictures' names, sizes and digests


@dataclass(frozen=True, slots=True)
class Plan:
    """A run's input: files in order, shards in order, the columns that pass through. Picklable."""

    settings: Settings
    files: tuple[PlannedFile, ...]
    shards: tuple[Shard, ...]
    passed: pa.Schema

    @property
    def rows(self) -> int:
        """Rows of all files."""
        return sum(file.rows for file in self.files)

    def reader(self, file: int) -> Reader:
        """Open one of the files; raises InputError."""
        return open_reader(self.files[file].file, self.settings)


def make_plan(
    arguments: Sequence[Path | str], settings: Settings, progress: Progress = lambda done, total: None
) -> Plan:
    """Find, hash and scan the inputs, and cut them into shards.

    Reads every input once and keeps 8 bytes a row while it looks for repeated ids. Raises InputError naming the file,
    and the column or the rows in it: missing or wrongly typed columns, columns that differ between files, an id that is
    there twice, a file that is cut off.
    """
    settings.check()
    inputs = find_inputs(arguments)
    total = sum(_size(file.path) for file in inputs)
    done = 0
    files: list[PlannedFile] = []
    shards: list[Shard] = []
    seen = array("Q")
    passed: pa.Schema | None = None
    for place, file in enumerate(inputs):
        reader = open_reader(file, settings)
        try:
            if passed is None:
                passed = reader.passed
            _check_same(file, reader.passed, inputs[0], passed)
            rows = 0
            for ids in reader.ids():
                rows += len(ids)
                seen.extend(_hash(generation_id) for generation_id in ids)
            starts = range(0, rows, settings.rows_per_shard)
            shards += [
                Shard(
                    len(shards) + number,
                    place,
                    start,
                    min(settings.rows_per_shard, rows - start),
                    reader.offset(start),
                )
                for number, start in enumerate(starts)
            ]
        finally:
            reader.close()
        files.append(PlannedFile(file, rows, *_digest(file, reader)))
        done += files[-1].bytes
        progress(done, total)
    assert passed is not None
    _check_unique(np.frombuffer(seen, np.uint64), inputs, settings)
    return Plan(settings, tuple(files), tuple(shards), passed)


def open_reader(file: InputFile, settings: Settings) -> Reader:
    """Open an input file; raises InputError."""
    if file.kind == "parquet":
        return ParquetInput(file, settings.columns, settings.pass_through)
    if file.kind == "webdataset":
        return TarInput(file, settings)
    return FolderInput(file, settings)


def _check_same(file: InputFile, found: pa.Schema, first: InputFile, wanted: pa.Schema) -> None:
    for name in [*wanted.names, *found.names]:
        here = found.field(name).type if name in found.names else None
        there = wanted.field(name).type if name in wanted.names else None
        if here != there:
            raise InputError(
                file.name,
                f"is {here or 'missing'}, in {first.name} it is {there or 'missing'}; pass through only columns "
                "that all files have",
                f"column {name}",
            )
    if found.names != wanted.names:
        raise InputError(file.name, f"are in another order than in {first.name}", "columns")


def _check_unique(
    seen: np.ndarray[tuple[int], np.dtype[np.uint64]], inputs: list[InputFile], settings: Settings
) -> None:
    ordered = np.sort(seen)
    repeated = set(ordered[1:][ordered[1:] == ordered[:-1]].tolist())
    if not repeated:
        return
    places: dict[str, tuple[str, int]] = {}
    for file in inputs:
        for row, generation_id in enumerate(_all_ids(file, settings)):
            if _hash(generation_id) not in repeated:
                continue
            if generation_id in places:
                first, at = places[generation_id]
                raise InputError(
                    file.name,
                    f"holds {generation_id[:80]!r}, which {first} holds in row {at} already; an id must be there once",
                    f"column {settings.columns.id}, row {row}",
                )
            places[generation_id] = (file.name, row)


def _all_ids(file: InputFile, settings: Settings) -> Iterable[str]:
    reader = open_reader(file, settings)
    try:
        for ids in reader.ids():
            yield from ids
    finally:
        reader.close()


def _hash(generation_id: str) -> int:
    digest = hashlib.blake2b(generation_id.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def _digest(file: InputFile, reader: Reader) -> tuple[int, str]:
    """(bytes, SHA-256) of an input."""
    try:
        if not isinstance(reader, FolderInput):
            return file.path.stat().st_size, sha256(file.path)
        size, digest = 0, hashlib.sha256()
        for path in reader.paths:
            size += path.stat().st_size
            digest.update(f"{text_of(path.relative_to(file.path))}\0{sha256(path)}\n".encode())
        return size, digest.hexdigest()
    except OSError as error:
        raise InputError(file.name, f"cannot be read: {error.strerror} ({error.filename})") from error


def _size(path: Path) -> int:
    try:
        return path.stat().st_size if path.is_file() else 0
    except OSError:
        return 0
