"""A folder of a user's own images, with a table of captions beside it."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from attributary.errors import InvalidArgumentError
from attributary_train.corpus.errors import CorpusError
from attributary_train.corpus.fetch import PackageCache
from attributary_train.corpus.item import UNKNOWN_CREATOR, UNKNOWN_LICENCE
from attributary_train.corpus.names import ConceptNames, slug
from attributary_train.corpus.sources.base import Drawing, SourceReport
from attributary_train.corpus.who import Creators

MAX_FILE_BYTES = 64 * 1024 * 1024
_REQUIRED = ("file", "caption")


@dataclass(frozen=True, slots=True)
class Folder:
    """Images of `folder` that `captions` (CSV or Parquet) lists.

    Columns: `file` (relative to the folder) and `caption`; optionally `creator`, `creator_url`, `creator_isni`,
    `creator_orcid`, `creator_ids` (a list of "isni:..." and "orcid:..."), `licence` (SPDX),
    `licence_url`, `keywords` (a list, or text separated by commas or semicolons) and `concept_id`.
    """

    folder: Path
    captions: Path
    held_out_default: bool = False
    uses_names: bool = False

    @property
    def name(self) -> str:
        """The folder's name: part of every key, so that moving the folder changes no id."""
        return slug(self.folder.resolve().name) or "folder"

    def drawings(self, cache: PackageCache, names: ConceptNames, report: SourceReport) -> Iterator[Drawing]:
        """Yield the listed images; raises `CorpusError` for a table or folder that cannot be used."""
        if not self.folder.is_dir():
            raise CorpusError(str(self.folder), "no such folder")
        root = self.folder.resolve()
        seen: set[str] = set()
        creators = Creators()
        for number, row in enumerate(_rows(self.captions), start=1):
            file, caption = _text(row.get("file")), _text(row.get("caption"))
            problem = _problem(root, file, caption, seen)
            try:
                ids = creators.ids_of(row) if problem is None else ()
            except InvalidArgumentError as error:
                problem = str(error)
            if problem:
                report.problem(file or f"row {number}", problem)
                continue
            seen.add(file)
            yield described(
                key=f"{self.name}/{Path(file).as_posix()}",
                uri=f"{self.name}/{Path(file).as_posix()}",
                style_set=self.name,
                facts=row,
                payload=root / file,
                creator_ids=ids,
                folder=root,
            )


def described(
    key: str,
    uri: str,
    style_set: str,
    facts: Mapping[str, Any],
    payload: bytes | Path,
    creator_ids: tuple[str, ...] = (),
    folder: Path | None = None,
) -> Drawing:
    """Make a drawing of a user's facts, with honest words for those that are missing."""
    caption = _text(facts.get("caption"))
    return Drawing(
        key=key,
        uri=uri,
        caption=caption,
        keywords=_keywords(facts.get("keywords")),
        concept_id=_text(facts.get("concept_id")) or slug(caption) or key,
        creator=_text(facts.get("creator")) or UNKNOWN_CREATOR,
        creator_url=_text(facts.get("creator_url")),
        style_set=style_set,
        family=style_set,
        licence_spdx=_text(facts.get("licence") or facts.get("license")) or UNKNOWN_LICENCE,
        licence_url=_text(facts.get("licence_url") or facts.get("license_url")),
        payload=payload,
        own=True,
        creator_ids=creator_ids,
        folder=folder,
    )


def _problem(root: Path, file: str, caption: str, seen: set[str]) -> str | None:
    path = (root / file).resolve()
    if not file:
        return "no file named"
    if not caption:
        return "no caption"
    if file in seen:
        return "listed twice"
    if not path.is_relative_to(root):
        return "lies outside the folder"
    if not path.is_file():
        return "no such file"
    if path.stat().st_size > MAX_FILE_BYTES:
        return f"larger than {MAX_FILE_BYTES} bytes"
    return None


def _rows(captions: Path) -> Iterator[Mapping[str, Any]]:
    """Read the table row by row; raises `CorpusError` naming the file, and its missing columns or the wrong line."""
    try:
        if captions.suffix.lower() == ".parquet":
            with pq.ParquetFile(captions) as table:
                _require(captions, table.schema_arrow.names)
                for batch in table.iter_batches(1024):
                    yield from batch.to_pylist()
        elif captions.suffix.lower() == ".csv":
            with captions.open(newline="", encoding="utf-8-sig") as stream:
                reader = csv.DictReader(stream, strict=True)
                _require(captions, reader.fieldnames or [])
                for row in reader:
                    _check_width(captions, row, reader)
                    yield row
        else:
            raise CorpusError(str(captions), "captions must be a .csv or a .parquet file")
    except FileNotFoundError as error:
        raise CorpusError(str(captions), "no such file") from error
    except csv.Error as error:
        raise CorpusError(str(captions), f"line {reader.reader.line_num}: {error}") from error
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
        raise CorpusError(str(captions), f"not readable: {error}") from error


def _check_width(captions: Path, row: Mapping[Any, Any], reader: csv.DictReader[str]) -> None:
    """Refuse a row that is too long: an unquoted comma in a caption would move the creator behind it."""
    names = reader.fieldnames or []
    found = len(names) + len(row.get(None) or ())
    if found > len(names):
        raise CorpusError(
            str(captions),
            f"line {reader.line_num}: {found} fields, the header has {len(names)}; "
            'put a field that holds a comma in quotes: "a cat, sitting"',
        )


def _require(captions: Path, columns: Any) -> None:
    missing = [name for name in _REQUIRED if name not in columns]
    if missing:
        have = ", ".join(columns) or "none"
        raise CorpusError(str(captions), f"column missing: {', '.join(missing)} (columns found: {have})")
    doubled = next((name for name in columns if list(columns).count(name) > 1), None)
    if doubled is not None:
        raise CorpusError(str(captions), f"column {doubled} is there twice")


def _text(value: object) -> str:
    return "" if value is None else " ".join(str(value).split())


def _keywords(value: object) -> tuple[str, ...]:
    parts = value if isinstance(value, list | tuple) else _text(value).replace(";", ",").split(",")
    return tuple(dict.fromkeys(_text(part) for part in parts if _text(part)))
