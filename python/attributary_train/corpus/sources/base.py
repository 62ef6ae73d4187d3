"""What a source is: a name, and drawings that nobody has rendered yet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from attributary_train.corpus.fetch import PackageCache
from attributary_train.corpus.names import ConceptNames


@dataclass(frozen=True, slots=True)
class Drawing:
    """An image as its maker published it, with everything an `Item` says but what rendering finds out."""

    key: str
    uri: str
    caption: str
    keywords: tuple[str, ...]
    concept_id: str
    creator: str
    creator_url: str
    style_set: str
    family: str
    licence_spdx: str
    licence_url: str
    # A raster format that Pillow reads, or SVG; a path where the file lies on disk anyway.
    payload: bytes | Path
    # Only for packages held to a hash: an SVG can draw other files of this machine into itself.
    svg: bool = False
    # A picture of the user's own, kept as it is; the others are drawings, rendered on a white square.
    own: bool = False
    # Who the creator is: "isni:...", "orcid:..."; as far as it is known.
    creator_ids: tuple[str, ...] = ()
    # Of one's own: the folder of pictures that it is from, whose files may say what is allowed.
    folder: Path | None = None


@dataclass(slots=True)
class SourceReport:
    """What a source left out and why; becomes its entry in `corpus.json`."""

    packages: dict[str, str] = field(default_factory=dict)  # name -> version
    skipped: Counter[str] = field(default_factory=Counter)  # reason -> drawings left out on purpose
    problems: list[dict[str, str]] = field(default_factory=list)  # "where" and "reason" of what went wrong
    notes: list[str] = field(default_factory=list)

    def problem(self, where: str, reason: str) -> None:
        """Record something that could not be used."""
        self.problems.append({"where": where, "reason": reason})


class Source(Protocol):
    """A set of drawings. Order and keys must not change between runs over the same packages."""

    @property
    def name(self) -> str:
        """How the command line and `corpus.json` call it."""
        ...

    @property
    def held_out_default(self) -> bool:
        """True for a set that is built only when asked for, so that demos have creators the index never saw."""
        ...

    @property
    def uses_names(self) -> bool:
        """True for a set of emoji, whose concepts join other sets by the table of emoji names."""
        ...

    def drawings(self, cache: PackageCache, names: ConceptNames, report: SourceReport) -> Iterator[Drawing]:
        """Yield the drawings, counting in `report` what is left out; raises `FetchError`."""
        ...
