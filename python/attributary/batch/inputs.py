"""From the arguments of a run to its input files, in the order of the shard contract."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq

from attributary.errors import InputError

from .naming import ARROW, PICTURES, RECORDS, TABLES, bookkeeping, derived, ending, hidden, is_below, is_tar
from .picture_tables import FAILED, describes_pictures, failed_downloads
from .rows import Fates

Kind = Literal["parquet", "arrow", "webdataset", "tfrecord", "folder"]

_WHOLE = re.compile(r"-?(0|[1-9]\d{0,17})")
_NO_VALUE = "__HIVE_DEFAULT_PARTITION__"
_LOG = "_delta_log"
# What every run's directory holds.
_RUN = frozenset({"run.json", "shards"})
_COMMIT = re.compile(r"(\d{20})\.json")
_CHECKPOINT = re.compile(r"(\d{20})\.checkpoint(\.\d+\.\d+)?\.parquet")


@dataclass(frozen=True, slots=True)
class InputFile:
    """One input: a Parquet or Arrow file, a tar, or a folder of pictures."""

    name: str  # POSIX path below the deepest directory that holds all inputs
    path: Path
    kind: Kind
    root: Path = Path()  # directory that the paths of its rows may not lead out of
    # Directories column=value of Hive, outermost first.
    partition: tuple[tuple[str, str | int | None], ...] = ()


@dataclass(slots=True)
class Found:
    """The inputs of a run, and what lies beside them."""

    files: list[InputFile] = field(default_factory=list)
    fates: Fates = field(default_factory=Fates)
    # Pictures beside tables, by real path: rows, if a table names them.
    pictures: dict[str, str] = field(default_factory=dict)


def find_inputs(
    arguments: Sequence[Path | str], roots: Sequence[str] = (), image_column: str | None = None
) -> Found:
    """Find the files that the arguments stand for, each once, sorted by the bytes of their names.

    A directory stands for the tars below it; without any, for its Parquet or Arrow files; for its pictures where there
    are none, or only tables that describe pictures, unless `image_column` says which column of theirs holds the rows'.
    `roots` are directories that symbolic links may lead to. Raises InputError naming an argument that is none of these.
    """
    found = Found()
    places: dict[Path, InputFile] = {}
    for argument in arguments:
        path = Path(os.path.abspath(argument))  # noqa: PTH100 - resolve() would follow links out of the log
        for file in _expand(path, str(argument), roots, image_column is not None, found):
            places.setdefault(file.path, file)
    if not places:
        raise InputError("(none)", "name at least one Parquet file, tar or folder")
    _without_links(places, found.fates)
    below = os.path.commonpath([path.parent for path in places])
    files = [replace(file, name=text_of(path.relative_to(below))) for path, file in places.items()]
    found.files = _typed(sorted(files, key=lambda file: os.fsencode(file.name)))
    return found


def text_of(path: Path) -> str:
    """POSIX path as valid Unicode; bytes that are none are written as escapes."""
    return os.fsencode(path.as_posix()).decode("utf-8", errors="backslashreplace")


def walk(folder: Path, roots: Sequence[str], fates: Fates) -> list[Path]:
    """Return every file below a folder; a linked directory only where it is allowed and not read already."""
    found: list[Path] = []
    allowed = [os.path.realpath(root) for root in roots]
    top = os.path.realpath(folder)
    read = {top}

    def unread(error: OSError) -> None:
        fates.skip(str(error.filename), f"a directory that cannot be read: {error.strerror}")

    for directory, names, files in os.walk(folder, followlinks=True, onerror=unread):
        if _RUN.issubset((*names, *files)) and directory != str(folder):
            # What passed through its rows names pictures: they would be generations once more.
            fates.ignore(text_of(Path(directory)), "a finished or unfinished run over a log")
            names.clear()
            continue
        # Sorted: which of two links to a directory is followed must not depend on the disk.
        names.sort()
        for name in list(names):
            path = Path(directory, name)
            if not path.is_symlink():
                continue
            target = os.path.realpath(path)
            below = os.path.relpath(target, top)
            inside = is_below(target, top)
            if (
                any(is_below(target, place) for place in read - {top})
                or top.startswith(target + os.sep)
                or (inside and not hidden(Path(below).parts))
            ):
                fates.skip(text_of(path), "a symbolic link to a directory that is read itself")
                names.remove(name)
            elif not inside and not any(is_below(target, root) for root in allowed):
                fates.skip(text_of(path), "a symbolic link out of the folder; --image-root allows its target")
                names.remove(name)
            else:
                read.add(target)
        for name in files:
            path = Path(directory, name)
            # A picture that is such a link becomes an error row.
            if path.is_symlink() and not path.exists() and ending(name) not in PICTURES:
                fates.skip(text_of(path), "a symbolic link that leads nowhere")
            else:
                found.append(path)
    return found


def _without_links(places: dict[Path, InputFile], fates: Fates) -> None:
    """Take out what leads to another of the inputs (`latest.tar`): a generation counts once."""
    read: set[str] = set()
    for path in sorted(places, key=lambda path: (path.is_symlink(), os.fsencode(path))):
        target = os.path.realpath(path)
        if target in read:
            del places[path]
            fates.skip(text_of(path), "a symbolic link to an input that is read itself")
        read.add(target)


def _expand(path: Path, said: str, roots: Sequence[str], named: bool, found: Found) -> list[InputFile]:
    if path.is_dir():
        return _expand_directory(path, said, roots, named, found)
    if not path.exists():
        raise InputError(said, "does not exist")
    kind = _kind(path)
    if kind is None:
        raise InputError(
            said,
            "must be a .parquet, .arrow or .tfrecord file, a .tar (also .gz, .zst, .bz2, .xz) or a directory",
        )
    return [InputFile("", path, kind, path.parent)]


def _kind(path: Path) -> Kind | None:
    if is_tar(path.name):
        return "webdataset"
    last = ending(path.name)
    if last in RECORDS:
        return "tfrecord"
    return "parquet" if last in TABLES else "arrow" if last in ARROW else None


def _expand_directory(
    path: Path, said: str, roots: Sequence[str], named: bool, found: Found
) -> list[InputFile]:
    of_walk = Fates()
    kinds: dict[Kind, list[Path]] = {"parquet": [], "arrow": [], "webdataset": [], "tfrecord": []}
    pictures: list[Path] = []
    rest: list[Path] = []
    for file in walk(path, roots, of_walk):
        parts = file.relative_to(path).parts
        kind = _kind(file)
        if bookkeeping(parts) or hidden(parts):
            rest.append(file)
        elif kind is not None:
            kinds[kind].append(file)
        elif ending(file.name) in PICTURES:
            pictures.append(file)
        else:
            rest.append(file)
    tars, tables = kinds["webdataset"] + kinds["tfrecord"], kinds["parquet"] + kinds["arrow"]
    for place in {file.parent.parent for file in rest if file.parent.name == _LOG}:
        live = live_files(place, said)
        for file in [file for file in tables if is_below(str(file), str(place)) and file not in live]:
            tables.remove(file)
            found.fates.ignore(text_of(file), "a file that the table's log has removed")
    about = bool(tars or (pictures and not named))
    beside = [table for table in tables if about and describes_pictures(table)]
    data = [table for table in tables if table not in beside]
    if tars and data:
        raise InputError(said, "holds Parquet files and tars; name the files of one kind")
    if pictures and not tars and not data:
        # The folder's reader counts its own.
        return [InputFile("", path, "folder", path)]
    if not tars and not data:
        links = "".join(f"; {reason}" for reason in of_walk.skipped)
        raise InputError(said, f"holds no Parquet file, no tar and no picture{links}")
    found.fates.add(of_walk)
    holders = " in the tars" if kinds["webdataset"] else " in the records" if tars else ""
    for file in beside:
        found.fates.ignore(text_of(file), f"a table about the pictures{holders}")
        if failed := failed_downloads(file):
            found.fates.skip(text_of(file), FAILED, failed)
    for file in rest:
        count_other(file.relative_to(path).parts, found.fates)
    for file in pictures:
        if tars:
            found.fates.skip(text_of(file), "a picture beside tars")
        else:
            found.pictures[os.path.realpath(file)] = text_of(file.relative_to(path))
    return [
        InputFile("", file, _kind(file) or "parquet", path, _partition(file.relative_to(path).parts[:-1]))
        for file in tars or data
    ]


def count_other(parts: Sequence[str], fates: Fates) -> None:
    """Count a file that is neither a row nor part of one."""
    name, last = "/".join(parts), ending(parts[-1])
    reason = bookkeeping(parts)
    holds_data = last in PICTURES or last in TABLES or last in ARROW or is_tar(parts[-1])
    if reason is not None:
        fates.ignore(name, reason)
    elif hidden(parts):
        reason = "hidden: a name that begins with a dot or an underscore"
        (fates.skip if holds_data else fates.ignore)(name, reason)
    elif last in PICTURES and derived(parts):
        fates.skip(name, str(derived(parts)))
    else:
        fates.skip(name, f"its ending {last} is not read here" if last else "has no ending")


def _partition(directories: Sequence[str]) -> tuple[tuple[str, str | int | None], ...]:
    found: dict[str, str | int | None] = {}
    for part in directories:
        name, is_value, value = part.partition("=")
        if is_value and name:
            found[unquote(name)] = None if value == _NO_VALUE else unquote(value)
    return tuple(found.items())


def _typed(files: list[InputFile]) -> list[InputFile]:
    """Make whole numbers of partition values where all files' values of a column are."""
    values: dict[str, list[str | int | None]] = {}
    for file in files:
        for name, value in file.partition:
            values.setdefault(name, []).append(value)
    whole = {
        name
        for name, column in values.items()
        if any(value is not None for value in column)
        and all(value is None or _WHOLE.fullmatch(str(value)) for value in column)
    }
    return [
        replace(
            file,
            partition=tuple(
                (name, int(value) if name in whole and value is not None else value)
                for name, value in file.partition
            ),
        )
        for file in files
    ]


def live_files(table: Path, said: str) -> set[Path]:
    """Return the files that are a Delta table's rows now: replaced and deleted ones stay in its directory for weeks.

    Source: the Delta Transaction Log Protocol, "Delta Log Entries" and "Checkpoints". Raises InputError for a log that
    cannot be followed.
    """
    try:
        live: set[Path] = set()
        for kind, action in _actions(table / _LOG):
            path = table / unquote(action["path"])
            if kind == "remove":
                live.discard(path)
            elif action.get("deletionVector"):
                raise InputError(
                    said, "is a Delta table with deletion vectors; write it again without (REORG, PURGE)"
                )
            else:
                live.add(path)
        return live
    except (
        OSError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        RecursionError,
        pa.ArrowException,
    ) as error:
        raise InputError(said, f"its {_LOG} cannot be read: {type(error).__name__}: {error}") from error


def _actions(log: Path) -> Iterator[tuple[str, Any]]:
    names = sorted(path.name for path in log.iterdir())
    last = max((int(found[1]) for name in names if (found := _CHECKPOINT.fullmatch(name))), default=-1)
    for name in names:
        if (found := _CHECKPOINT.fullmatch(name)) and int(found[1]) == last:
            for row in pq.read_table(log / name, columns=["add"], partitioning=None)["add"].to_pylist():
                if row:
                    yield "add", row
    for name in names:
        if (found := _COMMIT.fullmatch(name)) and int(found[1]) > last:
            for line in (log / name).read_text().splitlines():
                action = json.loads(line) if line.strip() else {}
                yield from ((kind, action[kind]) for kind in ("remove", "add") if action.get(kind))
