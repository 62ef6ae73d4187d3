"""How a log is cut into shards, the same cut for the same files and settings, and what a run would read of it."""

from __future__ import annotations

import hashlib
import os
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from attributary.attribution.types import Query
from attributary.errors import InputError, InvalidArgumentError
from attributary.plain import counted

from .inputs import InputFile, find_inputs, text_of
from .pictures import local_path
from .reader import FolderInput, Reader
from .rows import OWN_COLUMNS, Batch, Fates, Shard
from .scoring import prepare_rows
from .settings import Settings
from .stream_input import RecordInput, TarInput
from .table_input import TableInput
from .values import joined_type

# Rows that a dry run shows.
_SHOWN = 3
# Done, total: bytes of the inputs that were hashed.
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """One input file as it was when the run was planned."""

    file: InputFile
    rows: int
    bytes: int
    sha256: str  # of a folder: of its pictures' names, sizes and digests
    stamp: str = ""  # which rows it holds, as far as that is told without reading them


@dataclass(frozen=True, slots=True)
class Plan:
    """A run's input: files in order, shards in order, the columns that pass through. Picklable."""

    settings: Settings
    files: tuple[PlannedFile, ...]
    shards: tuple[Shard, ...]
    passed: pa.Schema
    fates: Fates = field(default_factory=Fates)  # members that are no rows

    @property
    def rows(self) -> int:
        """Rows of all files."""
        return sum(file.rows for file in self.files)

    def reader(self, file: int) -> Reader:
        """Open one of the files; raises InputError, also where it holds other rows than were planned."""
        planned = self.files[file]
        reader = open_reader(planned.file, self.settings)
        if _stamp(planned.file, reader) != planned.stamp:
            reader.close()
            raise InputError(
                planned.file.name,
                "has changed since it was planned, so other rows would be scored; score what nobody writes to, into "
                "another --out",
            )
        return reader

    def read(self, shards: Sequence[Shard]) -> Iterator[tuple[Shard, Iterator[Batch]]]:
        """Yield each shard with its batches; one file is open at a time, and read on where its last shard ended."""
        place, reader = -1, None
        try:
            for shard in shards:
                if reader is None or shard.file != place:
                    if reader is not None:
                        reader.close()
                    place, reader = shard.file, self.reader(shard.file)
                yield shard, reader.conformed(shard, self.passed)
        finally:
            if reader is not None:
                reader.close()


def make_plan(
    arguments: Sequence[Path | str], settings: Settings, progress: Progress = lambda done, total: None
) -> Plan:
    """Find, hash and scan the inputs, and cut them into shards.

    Reads every input once and keeps 8 bytes a row while it looks for repeated ids. Raises InputError naming the file,
    and the column or the rows in it: missing or wrongly typed columns, columns whose types cannot be joined between
    files, an id that is there twice, a file that is cut off.
    """
    settings.check()
    found = find_inputs(arguments, settings.access.roots, settings.columns.image)
    total = sum(_size(file.path) for file in found.files)
    done = 0
    files: list[PlannedFile] = []
    shards: list[Shard] = []
    seen = array("Q")
    passed: pa.Schema | None = None
    beside = dict(found.pictures)
    for place, file in enumerate(found.files):
        with closing(open_reader(file, settings)) as reader:
            stamp = _stamp(file, reader)
            columns = _with_partition(file, reader.passed, settings.pass_through)
            passed = _joined(file, columns, passed, found.files[0].name)
            rows = 0
            for ids in reader.ids():
                rows += len(ids)
                seen.extend(_hash(generation_id) for generation_id in ids)
            shards += _cut(rows, settings.rows_per_shard, len(shards), place, reader)
            files.append(PlannedFile(file, rows, *_digest(file, reader), stamp))
            for uri in reader.named() if beside else ():
                beside.pop(_named(file, uri), None)
            found.fates.add(reader.fates)
        done += files[-1].bytes
        progress(done, total)
    assert passed is not None
    # What writers give a text column that holds nothing but nulls.
    passed = pa.schema(
        [column.with_type(pa.string()) if column.type == pa.null() else column for column in passed]
    )
    _check_kept(passed, found.files[0].name)
    for name in settings.pass_through or ():
        if name not in passed.names and f"log_{name}" not in passed.names:
            there = ", ".join(passed.names) or "none"
            raise InputError(found.files[0].name, f"is missing; there are {there}", f"column {name}")
    for name in beside.values():
        found.fates.skip(name, "a picture that no table names")
    _check_copies(files)
    _check_read_once(found.files, settings)
    _check_unique(np.frombuffer(seen, np.uint64), found.files, settings)
    return Plan(settings, tuple(files), tuple(shards), passed, found.fates)


def _named(file: InputFile, uri: str) -> str:
    """The real path of the file that a row of an input names; empty for what is no file of this machine."""
    try:
        path = local_path(str(file.path.parent), uri)
        return "" if path is None else os.path.realpath(path)
    except (InvalidArgumentError, ValueError):
        # The row's own error.
        return ""


def _check_kept(passed: pa.Schema, file: str) -> None:
    """Refuse what Arrow knows and Parquet does not, before anything is scored."""
    for column in passed:
        try:
            pq.write_table(pa.schema([column]).empty_table(), pa.BufferOutputStream())
        except pa.ArrowException:
            raise InputError(
                file,
                f"is {column.type}, which Parquet cannot hold; name the columns to keep with --pass-through",
                f"column {column.name}",
            ) from None


def _cut(rows: int, every: int, first: int, file: int, reader: Reader) -> list[Shard]:
    return [
        Shard(first + number, file, start, min(every, rows - start), *reader.place(start))
        for number, start in enumerate(range(0, rows, every))
    ]


def open_reader(file: InputFile, settings: Settings) -> Reader:
    """Open an input file; raises InputError."""
    if file.kind == "folder":
        return FolderInput(file, settings)
    if file.kind == "tfrecord":
        return RecordInput(file, settings)
    return TarInput(file, settings) if file.kind == "webdataset" else TableInput(file, settings)


def _with_partition(file: InputFile, found: pa.Schema, wanted: tuple[str, ...] | None) -> pa.Schema:
    """A tar's columns and those of its directories; a table's reader has them already."""
    for name, value in file.partition if file.kind in ("webdataset", "tfrecord") else ():
        if name not in found.names and (wanted is None or name in wanted):
            kind = pa.int64() if isinstance(value, int) else pa.string()
            found = found.append(pa.field(f"log_{name}" if name in OWN_COLUMNS else name, kind))
    return found


def _joined(file: InputFile, found: pa.Schema, wanted: pa.Schema | None, first: str) -> pa.Schema:
    """Columns of the files so far and of one more: types as wide as both need, nulls where a file has none."""
    if wanted is None:
        return found
    joined = []
    for column in [*wanted, *(new for new in found if new.name not in wanted.names)]:
        here, there = (
            schema.field(column.name).type if column.name in schema.names else None
            for schema in (found, wanted)
        )
        kind = here or there if here is None or there is None else joined_type(there, here)
        if kind is None:
            raise InputError(
                file.name,
                f"is {here}, in {first} it is {there}; leave it out with --pass-through",
                f"column {column.name}",
            )
        joined.append(pa.field(column.name, kind))
    return pa.schema(joined)


def _check_copies(files: Iterable[PlannedFile]) -> None:
    """Refuse an input that is a copy of another: without ids of their own its rows have other ids, and count twice."""
    first: dict[str, str] = {}
    for one in files:
        other = first.setdefault(one.sha256, one.file.name)
        if one.rows and other != one.file.name:
            raise InputError(
                one.file.name, f"is a copy of {other}, to the byte: it would count twice; name one of them"
            )


def _check_read_once(inputs: list[InputFile], settings: Settings) -> None:
    """Refuse a picture of a folder that another input holds: through a link, as its part, or in a table."""
    folders = [file for file in inputs if file.kind == "folder"]
    if not folders or len(inputs) < 2:
        return
    paths = {file.name: FolderInput(file, settings).paths for file in folders}
    # Of links alone several may lead to one file: stores keep equal pictures once.
    holder = {
        os.path.realpath(path): name
        for name, found in paths.items()
        for path in found
        if not path.is_symlink()
    }
    for file in inputs:
        for path in (
            map(os.path.realpath, paths[file.name]) if file in folders else _all_named(file, settings)
        ):
            other = holder.get(path, file.name)
            if other != file.name:
                raise InputError(
                    file.name,
                    f"holds {text_of(Path(path))[-80:]!r}, which {other} holds as well: it would count twice; "
                    "name one of the two",
                )


def _all_named(file: InputFile, settings: Settings) -> Iterator[str]:
    with closing(open_reader(file, settings)) as reader:
        yield from (_named(file, uri) for uri in reader.named())


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
                    f"column {settings.columns.id or 'generation_id'}, row {row}",
                )
            places[generation_id] = (file.name, row)


def _all_ids(file: InputFile, settings: Settings) -> Iterable[str]:
    with closing(open_reader(file, settings)) as reader:
        for ids in reader.ids():
            yield from ids


def _hash(generation_id: str) -> int:
    digest = hashlib.blake2b(generation_id.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def _digest(file: InputFile, reader: Reader) -> tuple[int, str]:
    """(bytes, SHA-256) of an input."""
    try:
        return reader.digest()
    except OSError as error:
        raise InputError(file.name, f"cannot be read: {error.strerror} ({error.filename})") from error


def _stamp(file: InputFile, reader: Reader) -> str:
    """What tells an input from what it was, at no cost: a folder's pictures, or a file's size and time."""
    if isinstance(reader, FolderInput):
        return hashlib.sha256("\0".join(map(text_of, reader.paths)).encode()).hexdigest()
    found = file.path.stat()
    return f"{found.st_size} {found.st_mtime_ns}"


def _size(path: Path) -> int:
    try:
        return path.stat().st_size if path.is_file() else 0
    except OSError:
        return 0


def dry_run(plan: Plan) -> dict[str, Any]:
    """Read a planned log to its end, pictures too, decode none of them, and return the findings, JSON-ready."""
    prompts: Counter[str] = Counter()
    errors: Counter[str] = Counter()
    shown: list[dict[str, Any]] = []
    for _, batches in plan.read(plan.shards):
        for batch in batches:
            prepared = prepare_rows(batch, plan.settings, lambda data, prompt: Query(prompt=prompt))
            for place, (row, prompt) in enumerate(zip(batch.rows, prepared.prompts, strict=True)):
                problem = prepared.problems[place]
                prompts.update([prompt.source] if prompt.source else ())
                errors.update([f"{problem.field}: {problem.message}"[:120]] if problem else ())
                if len(shown) < _SHOWN:
                    shown.append(
                        {
                            "generation_id": row.generation_id,
                            "model_id": row.model_id,
                            "image": row.uri or counted(len(row.image or b""), "byte"),
                            "prompt": prompt.text,
                            "prompt_source": prompt.source,
                            "problem": f"{problem.field}: {problem.message}" if problem else None,
                        }
                    )
    return {
        "files": [
            {"name": entry.file.name, "kind": entry.file.kind, "rows": entry.rows, "bytes": entry.bytes}
            for entry in plan.files
        ],
        "rows": plan.rows,
        "columns": {field.name: str(field.type) for field in plan.passed},
        "prompts": {"rows": prompts.total(), "by_source": dict(sorted(prompts.items()))},
        "error_rows": dict(errors.most_common(20)),
        "skipped": dict(sorted(plan.fates.skipped.items())),
        "ignored": dict(sorted(plan.fates.ignored.items())),
        "examples": plan.fates.examples,
        "first_rows": shown,
    }


def preview_lines(found: dict[str, Any]) -> list[str]:
    """The findings as lines for people."""
    files = found["files"]
    lines = [f"{counted(len(files), 'input')}, {counted(found['rows'], 'row')}"]
    lines += [
        f"  {file['name']}  {file['kind']}  {counted(file['rows'], 'row')}  {counted(file['bytes'], 'byte')}"
        for file in files[:20]
    ]
    lines += [f"  and {len(files) - 20} more"] if len(files) > 20 else []
    lines.append("columns that pass through: " + (", ".join(found["columns"]) or "none"))
    lines.append(prompts_line(found["prompts"], found["rows"]))
    lines += [f"{counted(count, 'error row')}: {message}" for message, count in found["error_rows"].items()]
    for word in ("skipped", "ignored"):
        for reason, count in found[word].items():
            lines.append(f"{word} {count:,}: {reason} (such as {found['examples'].get(reason, '?')})")
    for row in found["first_rows"]:
        prompt = f"{row['prompt']!r} ({row['prompt_source']})" if row["prompt"] else "no prompt"
        lines.append(f"row {row['generation_id']}: {row['image']}, {row['problem'] or prompt}")
    lines.append(skipped_line(found["skipped"]) or "nothing is skipped")
    return lines


def prompts_line(prompts: dict[str, Any], rows: int) -> str:
    """How many rows have a prompt, and from where."""
    sources = ", ".join(f"{source} {count:,}" for source, count in prompts["by_source"].items())
    return f"{prompts['rows']:,} of {counted(rows, 'row')} with a prompt{f' ({sources})' if sources else ''}"


def skipped_line(skipped: dict[str, int]) -> str:
    """How many members of the inputs are no rows, and why; empty for none."""
    reasons = "; ".join(f"{count:,} {reason}" for reason, count in skipped.items())
    return f"skipped {sum(skipped.values()):,}: {reasons}" if skipped else ""
