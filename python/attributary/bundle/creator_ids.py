"""Who a creator is, beyond a name: ISNI and ORCID identifiers, in one spelling, their check characters verified."""

from __future__ import annotations

import re
from typing import Final

from attributary.errors import InvalidArgumentError

# What people paste: bare, with blanks or dashes, with a scheme, as a link.
_ISNI: Final = re.compile(
    r"(?:isni:|https?://(?:www\.)?isni\.org/(?:isni/)?|)((?:\d[ -]?){15}[\dX])", re.IGNORECASE
)
_ORCID: Final = re.compile(
    r"(?:orcid:|https?://(?:www\.)?orcid\.org/|)(\d{4}-\d{4}-\d{4}-\d{3}[\dX])", re.IGNORECASE
)


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
