"""Concept ids that join: one drawing of a red apple by five houses is one concept, "1F34E"."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SKIN_TONES = frozenset({"1F3FB", "1F3FC", "1F3FD", "1F3FE", "1F3FF"})
_SKIN_TONE_NAME = re.compile(r"-(medium-light|medium-dark|light|medium|dark)(-skin-tone\b|$)")
_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
# Spellings of emoji sets that predate the names Unicode uses now.
_RESPELT = {
    "asterisk": "keycap-asterisk",
    "pound-symbol": "keycap-hash",
    **{f"digit-{word}": f"keycap-{number}" for number, word in enumerate(_NUMBERS)},
}


def slug(name: str) -> str:
    """Normalise a name: ASCII lower case, words joined by hyphens ("flag: Åland Islands" -> "flag-aland-islands")."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain.replace("'", "")).strip("-")


def canonical_code(code: str) -> str:
    """Normalise Unicode code points in hex: upper case, four digits at least, no variation selector."""
    parts = [part.upper().zfill(4) for part in code.split("-")]
    return "-".join(part for part in parts if part != "FE0F")


def has_skin_tone(code: str) -> bool:
    """Tell whether a canonical code is a skin-tone variant of another one."""
    return not SKIN_TONES.isdisjoint(code.split("-"))


def is_skin_tone_name(name: str) -> bool:
    """Tell whether an icon's name says that it is a skin-tone variant ("waving-hand-medium-dark")."""
    return _SKIN_TONE_NAME.search(name) is not None


@dataclass(slots=True)
class ConceptNames:
    """A table from emoji names to code points, and from code points to a readable phrase and tags."""

    codes: dict[str, str] = field(default_factory=dict)  # slug -> canonical code
    phrases: dict[str, str] = field(default_factory=dict)  # canonical code -> phrase
    tags: dict[str, tuple[str, ...]] = field(default_factory=dict)  # canonical code -> tags

    def code(self, name: str) -> str | None:
        """Find the code points of a name in any of its known spellings."""
        wanted = slug(name)
        wanted = _RESPELT.get(wanted, wanted)
        for spelling in (wanted, wanted.replace("flag-for-", "flag-", 1)):
            if spelling in self.codes:
                return self.codes[spelling]
        return None

    def with_iconify(
        self, chars: Mapping[str, str], aliases: Mapping[str, Mapping[str, Any]]
    ) -> ConceptNames:
        """Copy the table and let the copy learn a set's own names, which other sets must not depend on."""
        copy = ConceptNames(dict(self.codes), dict(self.phrases), dict(self.tags))
        copy.add_iconify(chars, aliases)
        return copy

    def add_openmoji(self, entries: Iterable[Mapping[str, Any]]) -> None:
        """Learn from `data/openmoji.json`; its own extras (private code points) are no Unicode concepts."""
        for entry in entries:
            code = canonical_code(entry["hexcode"])
            if has_skin_tone(code) or is_private(code):
                continue
            self.codes.setdefault(slug(entry["annotation"]), code)
            self.phrases.setdefault(code, entry["annotation"])
            self.tags.setdefault(code, split_tags(entry["tags"]))

    def add_iconify(self, chars: Mapping[str, str], aliases: Mapping[str, Mapping[str, Any]]) -> None:
        """Learn from an iconify set's `chars.json` (code points -> name) and its aliases (name -> parent)."""
        own = {name: canonical_code(code) for code, name in chars.items()}
        for name, code in own.items():
            if not has_skin_tone(code):
                self.codes.setdefault(slug(name), code)
                self.phrases.setdefault(code, name.replace("-", " "))
        for name, alias in aliases.items():
            # An alias that mirrors or turns its parent is another drawing, not another name.
            if not alias.keys() & {"hFlip", "vFlip", "rotate"}:
                code_of_parent = own.get(alias["parent"]) or self.codes.get(slug(alias["parent"]))
                known = self.codes.get(slug(name)) or code_of_parent
                if known and not has_skin_tone(known):
                    self.codes.setdefault(slug(name), known)
                    self.codes.setdefault(slug(alias["parent"]), known)


def is_private(code: str) -> bool:
    """Tell whether a code lies in Unicode's private use area, where every set means something else."""
    return any(0xE000 <= int(part, 16) <= 0xF8FF or int(part, 16) >= 0xF0000 for part in code.split("-"))


def split_tags(text: str) -> tuple[str, ...]:
    """Split a comma-separated list, keeping the first of equal tags."""
    return tuple(dict.fromkeys(tag.strip() for tag in text.split(",") if tag.strip()))


def read_json(path: Path) -> Any:
    """Read a JSON file of a package."""
    return json.loads(path.read_text(encoding="utf-8"))
