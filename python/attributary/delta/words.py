"""One line of text stays one line: what an audit, a name or an address may hold, and how it is shown."""

from __future__ import annotations

import re

from attributary.errors import InvalidArgumentError

# Control characters, line and paragraph separators, lone surrogates, and marks that turn the direction of what follows:
# with them a reason could draw lines of its own into a log, or move a terminal's cursor.
_FORGING = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def check_line(value: str, field: str) -> None:
    """Raise InvalidArgumentError naming the first character that has no place in one line of text."""
    if found := _FORGING.search(value):
        raise InvalidArgumentError(
            field,
            f"holds the control character {_escaped(found)} at {found.start()}; it must be one line of text",
        )


def one_line(value: str) -> str:
    """The text with such characters as escapes: what was written before they were refused is shown safely, too."""
    return _FORGING.sub(_escaped, value)


def _escaped(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
