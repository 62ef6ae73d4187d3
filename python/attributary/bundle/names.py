"""Names of creators and licences: two spellings that nobody can tell apart are one name.

Tables that were put together from several places hold "Müller" in both forms that Unicode has for it, names with two
blanks, or with signs that are not seen. Taken for two creators, one would stay when the other opts out.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from typing import Final

from attributary.errors import InvalidArgumentError
from attributary.plain import plain

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
# Bytes (UTF-8) of a name at most, wherever it comes from, and so characters.
MAX_NAME_BYTES: Final = 512
# What people paste: bare, with blanks or dashes, with a scheme, as a link.
_ISNI: Final = re.compile(
    r"(?:isni:|https?://(?:www\.)?isni\.org/(?:isni/)?|)((?:\d[ -]?){15}[\dX])", re.IGNORECASE
)
_ORCID: Final = re.compile(
    r"(?:orcid:|https?://(?:www\.)?orcid\.org/|)(\d{4}-\d{4}-\d{4}-\d{3}[\dX])", re.IGNORECASE
)


def same_name(name: str) -> str:
    """Return how a name is spelled here: composed (NFC), blanks single and inside only, one hyphen, nothing unseen.

    Capitals and letters that only look alike are somebody else's. A name of nothing that is seen stays as it is, and so
    does one that is longer than names are: callers send such, and ordering the accents of a long one takes seconds.
    """
    as_it_is = name.isascii() and name.isprintable() and name.strip() == name and "  " not in name
    if as_it_is or len(name) > MAX_NAME_BYTES:
        return name
    composed = unicodedata.normalize("NFC", _UNSEEN.sub("", name)).translate(_HYPHENS)
    seen = unicodedata.normalize("NFC", _IDLE_JOINERS.sub("", composed))
    return _BLANKS.sub(" ", seen).strip(" ") or name


def check_name(name: str, field: str) -> None:
    """Raise InvalidArgumentError for a name that is too long, or that no audit and no terminal can show on one line.

    The same for additions, builds and corpora: who is in a bundle can be named by whoever takes them out.
    """
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        raise InvalidArgumentError(field, "must be valid Unicode") from None
    if size > MAX_NAME_BYTES:
        raise InvalidArgumentError(field, f"has {size} bytes, the limit is {MAX_NAME_BYTES}")
    check_line(name, field)


def check_line(value: str, field: str) -> None:
    """Raise InvalidArgumentError unless a text is one line that moves no cursor: it stands in logs and audits."""
    if (shown := plain(value)) != value:
        raise InvalidArgumentError(field, f"must be one line without control characters, got {shown[:200]}")


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


def isni(text: str, field: str = "creator_isni") -> str:
    """Return "isni:" and 16 digits; raises InvalidArgumentError naming `field` for anything else."""
    return f"isni:{_checked(_ISNI, text, field, 'an ISNI: 16 digits, the last may be X')}"


def orcid(text: str, field: str = "creator_orcid") -> str:
    """Return "orcid:" and 16 digits in groups of four; raises InvalidArgumentError naming `field` for anything else."""
    digits = _checked(_ORCID, text, field, "an ORCID: 0000-0002-1825-0097")
    return "orcid:" + "-".join(digits[place : place + 4] for place in range(0, 16, 4))


def identifier(text: str) -> str:
    """Return an identifier that says of itself what it is, in one spelling; raises InvalidArgumentError."""
    kind = text.strip().lower()
    if kind.startswith("isni:") or "isni.org/" in kind:
        return isni(text, "creator_ids")
    if kind.startswith("orcid:") or "orcid.org/" in kind:
        return orcid(text, "creator_ids")
    raise InvalidArgumentError("creator_ids", f"must begin with isni: or orcid:, got {text[:80]!r}")


def check_character(digits: str) -> str:
    """Return the check character of the first 15 digits (ISO 7064, MOD 11-2)."""
    total = 0
    for digit in digits[:15]:
        total = (total + int(digit)) * 2
    left = (12 - total % 11) % 11
    return "X" if left == 10 else str(left)


def _checked(pattern: re.Pattern[str], text: str, field: str, wanted: str) -> str:
    found = pattern.fullmatch(text.strip())
    if found is None or not text.isascii():
        raise InvalidArgumentError(field, f"must be {wanted}; got {text[:80]!r}")
    digits = re.sub("[ -]", "", found[1]).upper()
    if digits[15] != check_character(digits):
        raise InvalidArgumentError(
            field, f"{text[:80]!r} is mistyped: with these digits the last would be {check_character(digits)}"
        )
    return digits
