"""Tables beside a folder's pictures that say their prompts: metadata.jsonl, .csv and .parquet of Hugging Face,
DiffusionDB's part-*.json and metadata.parquet, img2dataset's tables, and JSON files from names to texts."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from .naming import TABLES, ending
from .rows import Fates

PROMPTS = ("prompt", "positive_prompt", "p", "text", "caption", "txt", "tags", "TEXT", "Prompt")
_NAMES = ("file_name", "image_name", "filename", "file_path", "file", "image_file", "key")
_IMAGES = ("image", "uri", "path", "jpg", "jpeg", "png", "webp")
_TABLE = re.compile(
    r"metadata\.(jsonl|csv)|.*\.jsonl|part-\d+\.json|meta_(cap|lat)\.json|captions?\.json", re.IGNORECASE
)
_MAX_BYTES = 1 << 28
FAILED = "a download that failed, by the table beside the pictures"


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
    whole = {path.relative_to(folder).as_posix(): path for path in pictures}
    by_name: dict[str, list[Path]] = {}
    for path in pictures:
        for name in {path.name, path.stem}:
            by_name.setdefault(name, []).append(path)
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
        strange = 0
        try:
            for name, facts in _entries(table):
                failed = facts.get("status")
                if isinstance(failed, str) and failed.startswith("failed"):
                    fates.skip(table.name, FAILED)
                    continue
                picture = _picture(name, below, whole, by_name)
                text = prompt_in(facts)
                if picture is None:
                    strange += 1
                elif text:
                    found.setdefault(picture, (source, text))
        except (OSError, ValueError, RecursionError, csv.Error, pa.ArrowException) as error:
            fates.skip(table.as_posix(), f"a table that cannot be read: {type(error).__name__}")
        if strange:
            fates.ignore(table.as_posix(), "a line of a table whose picture is not here", strange)
    return found


def prompt_in(facts: Mapping[str, Any]) -> str:
    """The prompt among a picture's facts; empty if there is none."""
    for name in PROMPTS:
        value = facts.get(name)
        if isinstance(value, list):
            value = ", ".join(part for part in value if isinstance(part, str))
        if isinstance(value, str) and value.strip():
            return value.strip()
        if isinstance(value, dict) and value:
            # A generator's graph.
            return json.dumps(value)
    return ""


def _picture(
    name: str, below: Path, whole: Mapping[str, Path], by_name: Mapping[str, list[Path]]
) -> Path | None:
    named = PurePosixPath(name.replace("\\", "/"))
    exact = whole.get((PurePosixPath(below.as_posix()) / named).as_posix())
    if exact is not None:
        return exact
    # DiffusionDB's table names no directories, img2dataset's no endings.
    parent = below.as_posix()
    there = [path for path in by_name.get(named.name, ()) if parent == "." or parent in path.as_posix()]
    return there[0] if len(there) == 1 else None


def _entries(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(name of a picture, its facts) of each line."""
    last = ending(path.name)
    if last not in TABLES and path.stat().st_size > _MAX_BYTES:
        raise ValueError("too large")
    if last in TABLES:
        yield from _named(_parquet(path))
    elif last == ".csv":
        with path.open(newline="", encoding="utf-8-sig", errors="replace") as stream:
            yield from _named(csv.DictReader(stream))
    elif last == ".jsonl":
        with path.open(encoding="utf-8-sig", errors="replace") as stream:
            yield from _named(facts for facts in map(_loaded, stream) if isinstance(facts, dict))
    else:
        loaded = json.loads(path.read_bytes().decode("utf-8-sig", errors="replace"))
        if isinstance(loaded, list):
            yield from _named(facts for facts in loaded if isinstance(facts, dict))
        for name, facts in loaded.items() if isinstance(loaded, dict) else ():
            yield name, facts if isinstance(facts, dict) else {"text": facts}


def _loaded(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _named(lines: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for facts in lines:
        name = next((facts[key] for key in _NAMES if isinstance(facts.get(key), str)), None)
        if name:
            yield name, facts


def _parquet(path: Path) -> Iterator[Mapping[str, Any]]:
    with pq.ParquetFile(path) as file:
        there = file.schema_arrow.names
        wanted = [name for name in (*_NAMES, *PROMPTS, "status") if name in there]
        for batch in file.iter_batches(65_536, columns=wanted, use_threads=False):
            yield from batch.to_pylist()
