"""Names of creators and licences: two spellings that nobody can tell apart are one name.

Tables that were put together from several places hold "Müller" in both forms that Unicode has for it, names with two
blanks, or with signs that are not seen. Taken for two creators, one would stay when the other opts out.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

# What Unicode calls default ignorable: marks of direction, selectors of variants, fillers. Joiners stay:
# scripts and pictographs are read by them.
_UNSEEN = re.compile(
    "[\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b\u200e\u200f"
    "\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3"
    "\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)

# Joiners behind blanks, signs and letters of scripts that do without (Latin to Armenian, kana, ideographs, Hangul) are
# not seen.
_IDLE_JOINERS = re.compile(
    "(?<![^\0-\u058f\u1680\u1e00-\u200a\u2010-\u205f\u3000-\u9fff\uac00-\ud7a3])[\u200c\u200d]+"
)
# The hyphen, and the one that ends no line, as text programs set them.
_HYPHENS = str.maketrans("\u2010\u2011", "--")

# Lines and controls are no blanks: whoever adds an item by such a name is refused.
_BLANKS = re.compile("[\t \xa0\u1680\u2000-\u200a\u202f\u205f\u3000]+")
# What programs write where nobody is named. "Nan" and "Null" are names of people.
NO_VALUE = frozenset({
    "", "nan", "NaN", "None", "null", "NULL", "<NA>", "N/A", "n/a", "#N/A", "#NA", "(null)", "undefined", "\\N",
})  # fmt: skip
UNKNOWN = "unknown"
# Characters of a name at most.
_LONGEST = 512


def same_name(name: str) -> str:
    """Return how a name is spelled here: composed (NFC), blanks single and inside only, one hyphen, nothing unseen.

    Capitals and letters that only look alike are somebody else's. A name of nothing that is seen stays as it is, and so
    does one that is longer than names are: callers send such, and ordering the accents of a long one takes seconds.
    """
    plain = name.isascii() and name.isprintable() and name.strip() == name and "  " not in name
    if plain or len(name) > _LONGEST:
        return name
    composed = unicodedata.normalize("NFC", _UNSEEN.sub("", name)).translate(_HYPHENS)
    seen = unicodedata.normalize("NFC", _IDLE_JOINERS.sub("", composed))
    return _BLANKS.sub(" ", seen).strip(" ") or name


def names_nobody(name: str) -> bool:
    """Whether a name is a word for nobody: of nothing seen, "unknown", or what a program writes for a missing value."""
    seen = _IDLE_JOINERS.sub("", _UNSEEN.sub("", name)).strip()
    return seen in NO_VALUE or seen.casefold() == UNKNOWN


class Codes(dict[str, int]):
    """Codes by name, whichever way it is spelled."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        """Codes from 0; `names` are spelled as `same_name` has them."""
        super().__init__((name, code) for code, name in enumerate(names))

    def __contains__(self, name: object) -> bool:
        # Filters hold thousands of names, most of them as they are spelled here.
        return isinstance(name, str) and (super().__contains__(name) or super().__contains__(same_name(name)))

    def __getitem__(self, name: str) -> int:
        return super().__getitem__(same_name(name))

    def code(self, name: str) -> int | None:
        """The code of a name, None if nobody has it."""
        return super().get(same_name(name))
