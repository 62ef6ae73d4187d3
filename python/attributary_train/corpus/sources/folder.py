"""A folder of a user's own images, with a table of captions beside it."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attributary.errors import InvalidArgumentError
from attributary_train.corpus.fetch import PackageCache
from attributary_train.corpus.item import UNKNOWN_CREATOR, UNKNOWN_LICENCE
from attributary_train.corpus.names import ConceptNames, slug
from attributary_train.corpus.sources.base import Drawing, SourceReport
from attributary_train.corpus.sources.captions import caption_rows
from attributary_train.corpus.who import Creators
from attributary_train.errors import CorpusError

MAX_FILE_BYTES = 64 * 1024 * 1024


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
        for number, row in enumerate(caption_rows(self.captions), start=1):
            file, problem = listed_file(root, row, seen)
            try:
                ids = creators.ids_of(row) if problem is None else ()
            except InvalidArgumentError as error:
                problem = str(error)
            if problem:
                report.problem(file or f"row {number}", problem)
                continue
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


def listed_file(root: Path, row: Mapping[str, Any], seen: set[str]) -> tuple[str, str | None]:
    """The file that a row names, below `root`, and why it cannot be taken; one that can is added to `seen`."""
    file, caption = _name(row.get("file")), _text(row.get("caption"))
    if not file:
        return file, "no file named"
    try:
        # What one system writes as a letter and an accent another writes as one letter.
        spelt = (file, *(unicodedata.normalize(form, file) for form in ("NFC", "NFD")))
        file = next((name for name in spelt if (root / name).is_file()), file)
        problem = _problem(root, file, caption, seen)
    except (OSError, ValueError) as error:
        problem = f"no name of a file: {error}"
    if problem is None:
        seen.add(file)
    return file, problem


def _problem(root: Path, file: str, caption: str, seen: set[str]) -> str | None:
    path = (root / file).resolve()
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


def _name(value: object) -> str:
    """A file's name as it stands, but for the space around it: two blanks in a name are two."""
    return "" if value is None else str(value).strip()


def _text(value: object) -> str:
    return "" if value is None else " ".join(str(value).split())


def _keywords(value: object) -> tuple[str, ...]:
    parts = value if isinstance(value, list | tuple) else _text(value).replace(";", ",").split(",")
    return tuple(dict.fromkeys(_text(part) for part in parts if _text(part)))
