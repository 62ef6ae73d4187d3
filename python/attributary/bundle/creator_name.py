"""A creator's name in one spelling: what looks the same on a page is one creator, wherever it is typed or stored.

Systems differ in how they write an accent (one letter, or a letter and a mark) and leave marks that nobody sees. Two
spellings of one name would halve what is paid and what an opt-out takes away. Capitals are left: "Ann" and "ANN" may be
two people.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final

# Soft hyphens, blanks without width, marks of direction, byte order marks. Joiners that scripts need stay.
_UNSEEN: Final = re.compile(r"[\u00ad\u034f\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff]")
_BLANKS: Final = re.compile(r"[ \u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]+")
# What programs write where nobody is named. "Nan" and "Null" are names of people.
_NOBODY: Final = frozenset({"", "nan", "NaN", "None", "null", "NULL", "<NA>", "N/A", "n/a", "#N/A"})
UNKNOWN: Final = "unknown"


def creator_name(text: str) -> str:
    """Return a name composed (Unicode NFC), without unseen marks, with single blanks between its words."""
    if not text.isascii():
        text = unicodedata.normalize("NFC", _UNSEEN.sub("", text))
    return _BLANKS.sub(" ", text).strip()


def names_nobody(name: str) -> bool:
    """Whether a name is a word for nobody: empty, "unknown", or what a program writes for a missing value."""
    return name in _NOBODY or name.casefold() == UNKNOWN
