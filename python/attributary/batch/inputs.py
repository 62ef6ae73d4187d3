"""From the arguments of a run to its input files, in the order of the shard contract."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from attributary.errors import InputError

Kind = Literal["parquet", "webdataset", "folder"]

PICTURES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp"})
_COMPRESSED = (".tar.gz", ".tgz", ".tar.zst", ".tar.xz", ".tar.bz2")


@dataclass(frozen=True, slots=True)
class InputFile:
    """One input: a Parquet file, a tar, or a folder of pictures."""

    name: str  # POSIX path below the deepest directory that holds all inputs
    path: Path
    kind: Kind


def find_inputs(arguments: Sequence[Path | str]) -> list[InputFile]:
    """Return the files that the arguments stand for, each once, sorted by the bytes of their names.

    A directory stands for the Parquet files below it; without any, for its tars; without any, for its pictures.
    Raises InputError naming an argument that is none of these.
    """
    found: dict[Path, Kind] = {}
    for argument in arguments:
        path = Path(os.path.abspath(argument))  # noqa: PTH100 - resolve() would follow links out of the log
        found.update(_expand(path, str(argument)))
    if not found:
        raise InputError("(none)", "name at least one Parquet file, tar or folder")
    below = os.path.commonpath([path.parent for path in found])
    files = [InputFile(_text(path.relative_to(below)), path, kind) for path, kind in found.items()]
    return sorted(files, key=lambda file: os.fsencode(file.name))


def picture_paths(folder: Path) -> list[Path]:
    """Return the pictures below a folder, sorted by the bytes of their relative paths."""
    found = [path for path in _below(folder) if path.suffix.lower() in PICTURES]
    return sorted(found, key=lambda path: os.fsencode(path.relative_to(folder)))


def text_of(path: Path) -> str:
    """POSIX path as valid Unicode; bytes that are none are written as escapes."""
    return _text(path)


def _expand(path: Path, said: str) -> dict[Path, Kind]:
    if path.is_dir():
        return _expand_directory(path, said)
    if not path.exists():
        raise InputError(said, "does not exist")
    name = path.name.lower()
    if name.endswith(_COMPRESSED):
        raise InputError(
            said, "is a compressed tar, which cannot be read from the middle; unpack it to a .tar"
        )
    if name.endswith((".parquet", ".pq")):
        return {path: "parquet"}
    if name.endswith(".tar"):
        return {path: "webdataset"}
    raise InputError(said, "must be a .parquet file, a .tar or a directory")


def _expand_directory(path: Path, said: str) -> dict[Path, Kind]:
    files = _below(path)
    tables: list[Path] = [file for file in files if file.suffix.lower() in {".parquet", ".pq"}]
    tars = [file for file in files if file.suffix.lower() == ".tar"]
    if tables and tars:
        raise InputError(said, "holds Parquet files and tars; name the files of one kind")
    if tables:
        return dict.fromkeys(tables, "parquet")
    if tars:
        return dict.fromkeys(tars, "webdataset")
    if any(file.suffix.lower() in PICTURES for file in files):
        return {path: "folder"}
    raise InputError(said, "holds no Parquet file, no tar and no picture")


def _below(folder: Path) -> list[Path]:
    found = []
    for directory, names, files in os.walk(folder):
        # Hidden files are editors', file systems' and unfinished writers' own.
        names[:] = [name for name in names if not name.startswith(".")]
        found += [Path(directory, name) for name in files if not name.startswith(".")]
    return found


def _text(path: Path) -> str:
    return os.fsencode(path.as_posix()).decode("utf-8", errors="backslashreplace")
