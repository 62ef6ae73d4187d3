"""Tables beside a folder's pictures that say their prompts: metadata.jsonl and .parquet of Hugging Face, any CSV,
DiffusionDB's part-*.json and metadata.parquet, img2dataset's tables, and JSON files from names to texts."""

from __future__ import annotations

import csv
import io
import json
import posixpath
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from attributary.bundle.names import NO_VALUE

from .naming import TABLES, ending
from .rows import Fates

PROMPTS = ("prompt", "positive_prompt", "p", "text", "caption", "txt", "tags", "TEXT", "Prompt")
_NAMES = ("file_name", "image_name", "filename", "file_path", "file", "image_file", "key")
_IMAGES = ("image", "uri", "path", "jpg", "jpeg", "png", "webp")
# In texts; a Parquet file with one of these is a log itself (`settings.IMAGE_COLUMNS`).
_ALSO = ("image_path", "img_path", "img", "picture", "output_path", "save_path")
_TABLE = re.compile(r".*\.(jsonl|csv|tsv)|part-\d+\.json|meta_(cap|lat)\.json|captions?\.json", re.IGNORECASE)
_DELIMITERS = ",;\t"
_MAX_BYTES = 1 << 28
FAILED = "a download that failed, by the table beside the pictures"
UNREADABLE_LINE = "a line of a table that cannot be read"


def describes_pictures(path: Path) -> bool:
    """Whether a Parquet file is about pictures that lie elsewhere: it names them and holds none."""
    if ending(path.name) not in TABLES:
        return False
    try:
        names = pq.read_schema(path).names
    except (OSError, pa.ArrowException):
        return False
    return not set(names) & set(_IMAGES) and bool(set(names) & set(_NAMES))


def failed_downloads(path: Path) -> int:
    """Lines of img2dataset's table whose picture was never there; 0 for any other table."""
    try:
        if "status" not in pq.read_schema(path).names:
            return 0
        found = pq.read_table(path, columns=["status"], partitioning=None)["status"].to_pylist()
    except (OSError, ValueError, pa.ArrowException):
        return 0
    return sum(isinstance(status, str) and status.startswith("failed") for status in found)


def is_table(path: Path) -> bool:
    """Whether a file beside pictures is a table about them."""
    return bool(_TABLE.fullmatch(path.name)) or describes_pictures(path)


def read_tables(
    tables: Sequence[Path], folder: Path, pictures: Sequence[Path], fates: Fates
) -> dict[Path, tuple[str, str]]:
    """Return {picture: (source, prompt)} of the folder's tables; a later table does not overrule an earlier one.

    What cannot be read is counted as skipped: a picture without a prompt is one still.
    """
    if not tables:
        return {}
    places = _Places(folder, pictures)
    found: dict[Path, tuple[str, str]] = {}
    for table in tables:
        below = table.parent.relative_to(folder)
        source = (
            "part.json"
            if table.name.startswith("part-")
            else table.name
            if "meta" in table.name
            else ending(table.name)[1:]
        )
        lines = strange = broken = 0
        try:
            for entry in _entries(table):
                lines += 1
                if entry is None:
                    broken += 1
                    continue
                name, facts = entry
                failed = facts.get("status")
                if isinstance(failed, str) and failed.startswith("failed"):
                    fates.skip(table.name, FAILED)
                    continue
                text = prompt_in(facts)
                if not (is_unicode(name) and is_unicode(text)):
                    broken += 1
                    continue
                picture = places.find(name, below) if name else None
                if picture is None:
                    strange += 1
                elif text:
                    found.setdefault(picture, (source, text))
        except (OSError, ValueError, RecursionError, csv.Error, pa.ArrowException) as error:
            fates.skip(table.as_posix(), f"a table that cannot be read: {type(error).__name__}")
        if broken:
            fates.skip(table.as_posix(), UNREADABLE_LINE, broken)
        if strange == lines > 0 or (not lines and ending(table.name) in (".csv", ".tsv", ".jsonl")):
            fates.skip(table.as_posix(), "a table that names no picture here")
        elif strange:
            fates.ignore(table.as_posix(), "a line of a table whose picture is not here", strange)
    return found


class _Places:
    """A folder's pictures by the names that tables give them: capitals and forms of accents differ between systems."""

    def __init__(self, folder: Path, pictures: Sequence[Path]) -> None:
        self._folder = folder
        self._exact = {path.relative_to(folder).as_posix(): path for path in pictures}
        self._alike: dict[str, list[Path]] = {}
        self._by_name: dict[str, list[Path]] = {}
        for name, path in self._exact.items():
            self._alike.setdefault(same_name(name), []).append(path)
            for last in {path.name, path.stem}:
                self._by_name.setdefault(same_name(last), []).append(path)

    def find(self, name: str, below: Path) -> Path | None:
        """The picture of a name in a table in the directory `below`, None if there is none or more than one."""
        named = PurePosixPath(name.replace("\\", "/"))
        whole = posixpath.normpath(PurePosixPath(below.as_posix()) / named)
        if whole in self._exact:
            return self._exact[whole]
        there = self._alike.get(same_name(whole), [])
        if not there:
            # DiffusionDB's table names no directories, img2dataset's no endings.
            parent = self._folder / below
            there = [
                path for path in self._by_name.get(same_name(named.name), ()) if path.is_relative_to(parent)
            ]
        return there[0] if len(there) == 1 else None


def same_name(name: str) -> str:
    """A file's name without capitals, its accents composed."""
    return unicodedata.normalize("NFC", name).casefold()


def is_unicode(text: str) -> bool:
    """Whether a text can be written: bytes that were none of UTF-8, and halves of characters, cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def prompt_in(facts: Mapping[str, Any]) -> str:
    """The prompt among a picture's facts, whatever the capitals of their names; empty if there is none."""
    facts = _any_case(facts)
    for name in PROMPTS:
        value = facts.get(name)
        if isinstance(value, list):
            value = ", ".join(part for part in value if isinstance(part, str))
        if isinstance(value, str) and value.strip() not in NO_VALUE:
            return value.strip()
        if isinstance(value, dict) and value:
            # A generator's graph.
            return json.dumps(value)
    return ""


def _entries(path: Path) -> Iterator[tuple[str, Mapping[str, Any]] | None]:
    """(name of a picture, its facts) of each line; None for one that cannot be read."""
    last = ending(path.name)
    if last not in TABLES and path.stat().st_size > _MAX_BYTES:
        raise ValueError("too large")
    if last in TABLES:
        yield from map(_named, _parquet(path))
        return
    data = path.read_bytes()
    # What is no UTF-8 stays in its own line.
    wide = data.startswith((b"\xff\xfe", b"\xfe\xff"))
    text = data.decode("utf-16") if wide else data.decode("utf-8-sig", "surrogateescape")
    if last in (".csv", ".tsv"):
        yield from (row if row is None else _named(row) for row in _of_csv(text))
    elif last == ".jsonl":
        for line in io.StringIO(text, newline=None):
            if line.strip():
                yield None if (facts := facts_of(line)) is None else _named(facts)
    else:
        loaded = json.loads(text)
        if isinstance(loaded, list):
            yield from (_named(facts) for facts in loaded if isinstance(facts, dict))
        for name, facts in loaded.items() if isinstance(loaded, dict) else ():
            yield name, facts if isinstance(facts, dict) else {"text": facts}


def _of_csv(text: str) -> Iterator[Mapping[str, Any] | None]:
    """The rows of a CSV text, by whichever delimiter its header names a picture with; none if it names none.

    None stands for a row that quotes no field to its end, and for one that is longer than the header: it has shifted.
    """
    for sign in _DELIMITERS:
        rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=sign, strict=True)
        if any(str(name).strip().casefold() in (*_NAMES, *_IMAGES, *_ALSO) for name in rows.fieldnames or ()):
            break
    else:
        return
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error:
            yield None
        else:
            yield None if None in row else row


def facts_of(text: str) -> dict[str, Any] | None:
    """The object that a JSON text holds; None for anything else."""
    try:
        loaded = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return loaded if isinstance(loaded, dict) else None


def _named(facts: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """(name of the picture, empty without one; facts) of a line."""
    facts = _any_case(facts)
    names = (facts[key] for key in (*_NAMES, *_IMAGES, *_ALSO) if isinstance(facts.get(key), str))
    return next(names, ""), facts


def _any_case(facts: Mapping[str, Any]) -> Mapping[str, Any]:
    """Facts under their names, and under those without capitals where none has them."""
    return {str(name).strip().casefold(): value for name, value in facts.items()} | dict(facts)


def _parquet(path: Path) -> Iterator[Mapping[str, Any]]:
    with pq.ParquetFile(path) as file:
        there = file.schema_arrow.names
        wanted = [name for name in (*_NAMES, *PROMPTS, "status") if name in there]
        for batch in file.iter_batches(65_536, columns=wanted, use_threads=False):
            yield from batch.to_pylist()
