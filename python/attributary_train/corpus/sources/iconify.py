"""Emoji sets of design houses, as the iconify packages carry them: one JSON file of SVG bodies a set."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from typing import Any

from attributary_train.corpus.fetch import PackageCache
from attributary_train.corpus.names import (
    ConceptNames,
    canonical_code,
    has_skin_tone,
    is_skin_tone_name,
    read_json,
    slug,
)
from attributary_train.corpus.pins import NpmPin
from attributary_train.corpus.sources.base import Drawing, SourceReport


@dataclass(frozen=True, slots=True)
class Iconify:
    """One set; the house is the creator of all of it, as the package names no artists."""

    name: str
    pin: NpmPin
    family: str
    held_out_default: bool = False
    uses_names: bool = True

    def drawings(self, cache: PackageCache, names: ConceptNames, report: SourceReport) -> Iterator[Drawing]:
        """Yield the set's distinct visible icons without skin-tone variants."""
        root = cache.npm(self.pin)
        report.packages[self.pin.name] = self.pin.version
        icons = read_json(root / "icons.json")
        info = read_json(root / "info.json")
        chars: dict[str, str] = read_json(root / "chars.json")
        own_codes = {name: canonical_code(code) for code, name in chars.items()}
        names = names.with_iconify(chars, icons.get("aliases", {}))
        categories = _categories(read_json(root / "metadata.json"))
        seen: set[str] = set()
        for name, icon in sorted(icons["icons"].items()):
            code = own_codes.get(name) or names.code(name)
            reason = _reason_to_skip(name, code, icon, seen)
            if reason:
                report.skipped[reason] += 1
                continue
            seen.add(icon["body"])
            phrase = names.phrases.get(code or "", name.replace("-", " "))
            keywords = (*names.tags.get(code or "", ()), *categories.get(name, ()))
            yield Drawing(
                key=f"{self.name}/{name}",
                uri=f"{self.pin.label}/icons.json#{name}",
                caption=phrase,
                keywords=tuple(dict.fromkeys(keywords)),
                concept_id=code or slug(name),
                creator=info["author"]["name"],
                creator_url=info["author"].get("url", ""),
                style_set=self.name,
                family=self.family,
                licence_spdx=info["license"]["spdx"],
                licence_url=info["license"].get("url", ""),
                payload=_svg(icon, icons),
                svg=True,
            )


def _reason_to_skip(name: str, code: str | None, icon: dict[str, Any], seen: set[str]) -> str | None:
    if icon.get("hidden"):
        return "hidden by the set"
    if is_skin_tone_name(name) or (code is not None and has_skin_tone(code)):
        return "skin tone"
    if icon["body"] in seen:
        return "same drawing under another name"
    return None


def _svg(icon: dict[str, Any], defaults: dict[str, Any]) -> bytes:
    left, top = icon.get("left", 0), icon.get("top", 0)
    width = icon.get("width", defaults.get("width", 16))
    height = icon.get("height", defaults.get("height", 16))
    box = escape(f"{left} {top} {width} {height}")
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{box}" width="{width}" height="{height}">{icon["body"]}</svg>'
    ).encode()


def _categories(metadata: dict[str, Any]) -> dict[str, tuple[str, ...]]:
    of_icon: dict[str, tuple[str, ...]] = {}
    for category, members in metadata.get("categories", {}).items():
        for member in members:
            of_icon[member] = (*of_icon.get(member, ()), category.lower())
    return of_icon
