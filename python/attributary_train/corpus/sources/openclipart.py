"""Open Clip Art Library: drawings by hundreds of people, each with its own record of title and creator."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from attributary_train.corpus.fetch import PackageCache
from attributary_train.corpus.names import ConceptNames, slug
from attributary_train.corpus.pins import OPENCLIPART_PNG, OPENCLIPART_SVG
from attributary_train.corpus.sources.base import Drawing, SourceReport
from attributary_train.corpus.sources.creators import CreatorNames

_DC = "{http://purl.org/dc/elements/1.1/}"
_PUBLIC_DOMAIN = re.compile(r"web\.resource\.org/cc/PublicDomain|creativecommons\.org/licenses/publicdomain")
# A title that many files carry is the name of a collection, not of a drawing.
_COLLECTION_TITLE = 5
_COLLECTION_PREFIX = re.compile(r"^(clip ?art|clipart convert made) by .*? - ", re.IGNORECASE)
# Words of the library's own sorting that say nothing about a picture.
_DULL = frozenset(
    {
        "hash",
        "icon",
        "computer",
        "signs and symbols",
        "sign",
        "shape",
        "symbol",
        "theme",
        "unsorted",
        "various",
    }
    | {
        "svg",
        "clipart",
        "clip art",
        "united nations member",
        "lemon theme icon",
        "miscellany",
        "image",
        "object",
    }
)


@dataclass(frozen=True, slots=True)
class _Record:
    path: Path  # of the SVG, relative to the package's root of drawings
    title: str
    creator: str
    keywords: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class OpenClipart:
    """Public-domain clip art: pixels from the PNG package, records from the SVG package."""

    name: str = "openclipart"
    held_out_default: bool = False
    uses_names: bool = True

    def drawings(self, cache: PackageCache, names: ConceptNames, report: SourceReport) -> Iterator[Drawing]:
        """Yield every distinct drawing that has a title, a creator and a public-domain mark."""
        png_root, png_version = cache.debian(OPENCLIPART_PNG)
        svg_root, svg_version = cache.debian(OPENCLIPART_SVG)
        report.packages |= {OPENCLIPART_PNG.name: png_version, OPENCLIPART_SVG.name: svg_version}
        for pin, found in ((OPENCLIPART_PNG, png_version), (OPENCLIPART_SVG, svg_version)):
            if found != pin.version:
                report.notes.append(f"{pin.name} {found} was found in place of the pinned {pin.version}")
        pngs = png_root / "usr/share/openclipart/png"
        records = list(_records(svg_root / "usr/share/openclipart/svg", report))
        creators = CreatorNames(record.creator for record in records)
        titles = Counter(record.title for record in records)
        seen: set[bytes] = set()
        for record in records:
            creator = creators.display(record.creator)
            png = pngs / record.path.with_suffix(".png")
            if creator is None:
                report.skipped["no creator named"] += 1
                continue
            if not png.is_file():
                report.skipped["no PNG of this drawing"] += 1
                continue
            digest = sha256(png.read_bytes()).digest()
            if digest in seen:
                report.skipped["same drawing under another name"] += 1
                continue
            seen.add(digest)
            title = record.title if titles[record.title] < _COLLECTION_TITLE else ""
            name = _readable(_COLLECTION_PREFIX.sub("", title)) or _name_from_file(
                record.path.stem, record.creator
            )
            words = _words(record, name)
            yield Drawing(
                key=f"openclipart/{record.path.with_suffix('').as_posix()}",
                uri=f"{OPENCLIPART_PNG.name}@{png_version}/{record.path.with_suffix('.png').as_posix()}",
                caption=", ".join((name, *words[:3])),
                keywords=words,
                concept_id=_concept(record.path, name, names),
                creator=creator,
                creator_url="",
                style_set="openclipart",
                family="openclipart",
                licence_spdx="CC-PDDC",
                licence_url="https://creativecommons.org/licenses/publicdomain/",
                payload=png,
            )


def _records(root: Path, report: SourceReport) -> Iterator[_Record]:
    for path in sorted(root.rglob("*.svg")):
        inside = path.relative_to(root)
        if path.is_symlink():
            report.skipped["link to another drawing"] += 1
        elif inside.parts[:2] == ("shapes", "stars"):
            # More than a thousand star polygons that one program wrote.
            report.skipped["star polygon"] += 1
        else:
            try:
                work = _work(path)
            except (ET.ParseError, OSError) as error:
                report.problem(inside.as_posix(), f"its record cannot be read: {error}")
                continue
            record = None if work is None else _record(inside, work)
            if record is None:
                report.skipped["no title"] += 1
            elif not _is_public_domain(work):
                report.skipped["not marked as public domain"] += 1
            else:
                yield record


def _work(path: Path) -> ET.Element | None:
    # The record stands before the drawing: stop there instead of parsing megabytes of paths.
    elements: Iterator[ET.Element] = (element for _, element in ET.iterparse(path, events=("end",)))
    return next((element for element in elements if element.tag.endswith("}Work")), None)


def _record(path: Path, work: ET.Element) -> _Record | None:
    title = " ".join((work.findtext(f"{_DC}title") or "").split())
    if not title:
        return None
    creator = work.findtext(f"{_DC}creator//{_DC}title") or work.findtext(f"{_DC}creator") or ""
    subjects = (" ".join((element.text or "").split()) for element in work.findall(f"{_DC}subject//*"))
    return _Record(
        path,
        title,
        " ".join(creator.split()),
        tuple(subject for subject in subjects if subject and "@" not in subject),
    )


def _is_public_domain(work: ET.Element | None) -> bool:
    if work is None:
        return False
    marks = [
        value for element in work if element.tag.endswith("license") for value in element.attrib.values()
    ]
    return any(_PUBLIC_DOMAIN.search(mark) for mark in marks)


def _readable(title: str) -> str:
    """Turn a title such as "Flat_Cake" or "Tigre02" into words; an address is no title."""
    if "@" in title:
        return ""
    words = re.sub(r"[_\s]+", " ", title).strip(" -.")
    words = re.sub(r"(?<=[^\W\d])\d+\b|\s+\d+$", "", words).strip(" -.")
    return words if re.search(r"[^\W\d]{2}", words) else ""


def _name_from_file(stem: str, creator: str) -> str:
    """Read words off a file name, without the creator's name and the running number that the library appends."""
    words = re.sub(r"\d+$", "", stem).replace("-", "_").strip("_").split("_")
    known = {part for part in slug(creator).split("-") if part}
    while len(words) > 1 and (words[-1].isdigit() or any(part.startswith(slug(words[-1])) for part in known)):
        words.pop()
    return _readable(" ".join(words)) or stem.replace("_", " ")


def _words(record: _Record, name: str) -> tuple[str, ...]:
    """Collect keywords and folder names that add something to the drawing's name."""
    said = _stems(name) | _stems(record.creator)
    kept: list[str] = []
    for word in (*record.keywords, *reversed(record.path.parts[:-1])):
        readable = re.sub(r"[_\s]+", " ", word).strip().lower()
        stems = _stems(readable)
        dull = (
            readable in _DULL or readable.removesuffix("s") in _DULL or readable.startswith(("hash(", "0x"))
        )
        if stems and not dull and not stems <= said:
            kept.append(readable)
            said |= stems
    return tuple(kept)


def _stems(text: str) -> set[str]:
    """Split into words without a plural s, so that "animals" says nothing that "animal" has not said."""
    return {part.removesuffix("s") for part in slug(text).split("-")} - {""}


def _concept(path: Path, name: str, names: ConceptNames) -> str:
    if "flags" in path.parts:
        country = re.sub(r"\bflag( of)?\b", " ", name, flags=re.IGNORECASE)
        return names.code(f"flag: {country}") or slug(f"flag {country}")
    return names.code(name) or slug(name) or slug(path.stem)
