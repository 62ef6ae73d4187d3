"""Text that others wrote, made safe to show: on a terminal, in a line of a log, in a cell of a spreadsheet."""

from __future__ import annotations

import csv
import io
import json
import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

# Joiners and tags that emoji and some scripts are written with: they move nothing.
_HARMLESS = frozenset({"\u200c", "\u200d", *map(chr, range(0xE0020, 0xE0080))})
# Control, format (direction marks), surrogates, line and paragraph separators.
_MOVES = ("Cc", "Cf", "Cs", "Zl", "Zp")
# What spreadsheets take for the beginning of a formula, wide signs too.
_FORMULA = re.compile(r"^\s*[=+\-@\t\r\uff1d\uff0b\uff0d\uff20]")


def plain(text: str) -> str:
    """Return text on one line that cannot move a cursor, colour a screen or turn its direction.

    Control characters and their like become the escapes that Python writes for them; everything else stays.
    """
    return text if text.isascii() and text.isprintable() else "".join(map(_escaped, text))


def counted(count: int, noun: str) -> str:
    """Say how many there are, e.g. "1 row", "1,204 rows"; nouns that take an s."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def json_line(value: Any) -> str:
    """Return a JSON-ready value as one line of JSON, readable, and as harmless to a terminal as `plain`."""
    text = json.dumps(value, ensure_ascii=False)
    if text.isascii() and text.isprintable():
        return text
    # Beyond ASCII there is nothing but the insides of strings.
    return "".join(json.dumps(sign)[1:-1] if _moves(sign) else sign for sign in text)


def cell(value: object) -> object:
    """Return a value for a cell of a CSV file: a text that a spreadsheet would run gets an apostrophe before it."""
    return f"'{value}" if isinstance(value, str) and _FORMULA.match(value) else value


def csv_file(header: Sequence[str], rows: Iterable[Sequence[object]]) -> bytes:
    """Return a CSV file: UTF-8, RFC 4180 quoting, LF; no text in it is a spreadsheet's formula."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([cell(value) for value in row] for row in rows)
    return text.getvalue().encode("utf-8", "backslashreplace")


def _escaped(sign: str) -> str:
    return sign.encode("unicode_escape").decode() if _moves(sign) else sign


def _moves(sign: str) -> bool:
    return unicodedata.category(sign) in _MOVES and sign not in _HARMLESS
