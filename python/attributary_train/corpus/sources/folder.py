"""A folder of a user's own images, with a table of captions beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attributary_train.corpus.fetch import PackageCache
from attributary_train.corpus.item import UNKNOWN_LICENCE
from attributary_train.corpus.names import ConceptNames, slug
from attributary_train.corpus.sources.base import Drawing, SourceReport
from attributary_train.corpus.sources.captions import text_of
from attributary_train.corpus.sources.listing import Listing
from attributary_train.errors import CorpusError


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
        listing = Listing(root, self.captions)
        for row in listing.rows():
            if row.problem:
                report.problem(row.file, row.problem)
                continue
            key = f"{self.name}/{Path(row.file).as_posix()}"
            yield described(
                key=key,
                uri=key,
                style_set=self.name,
                facts=row.facts,
                payload=root / row.file,
                creator=row.creator,
                creator_ids=row.creator_ids,
                folder=root,
            )
        report.notes += listing.notes()


def described(
    key: str,
    uri: str,
    style_set: str,
    facts: Mapping[str, Any],
    payload: bytes | Path,
    creator: str,
    creator_ids: tuple[str, ...] = (),
    folder: Path | None = None,
) -> Drawing:
    """Make a drawing of a user's facts, with honest words for those that are missing."""
    caption = text_of(facts.get("caption"))
    return Drawing(
        key=key,
        uri=uri,
        caption=caption,
        keywords=_keywords(facts.get("keywords")),
        concept_id=text_of(facts.get("concept_id")) or slug(caption) or key,
        creator=creator,
        creator_url=text_of(facts.get("creator_url")),
        style_set=style_set,
        family=style_set,
        licence_spdx=text_of(facts.get("licence") or facts.get("license")) or UNKNOWN_LICENCE,
        licence_url=text_of(facts.get("licence_url") or facts.get("license_url")),
        payload=payload,
        own=True,
        creator_ids=creator_ids,
        folder=folder,
    )


def _keywords(value: object) -> tuple[str, ...]:
    parts = value if isinstance(value, list | tuple) else text_of(value).replace(";", ",").split(",")
    return tuple(dict.fromkeys(text_of(part) for part in parts if text_of(part)))
