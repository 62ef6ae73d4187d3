"""The table beside a folder of one's own pictures: CSV as spreadsheets and scripts write it, or Parquet."""

from __future__ import annotations

import csv
import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from attributary_train.errors import CorpusError

_REQUIRED = ("file", "caption")
COLUMNS = frozenset(
    {*_REQUIRED, "creator", "creator_url", "creator_isni", "creator_orcid", "creator_ids", "licence", "license",
     "licence_url", "license_url", "keywords", "concept_id"}
)  # fmt: skip
# What separates fields: Excel writes semicolons where the comma is the decimal sign, and tabs as "text".
_DELIMITERS = ",;\t"
# A first line by which Excel is told the delimiter.
_SEPARATOR = re.compile(r'"?sep=(.)"?\s*')


def caption_rows(captions: Path) -> Iterator[Mapping[str, Any]]:
    """Read the table row by row; raises `CorpusError` naming the file, and its missing columns or the wrong line."""
    try:
        if captions.suffix.lower() == ".parquet":
            with pq.ParquetFile(captions) as table:
                names = _spelt(table.schema_arrow.names)
                _require(captions, names)
                for batch in table.iter_batches(1024):
                    yield from map(_plain, batch.rename_columns(names).to_pylist())
        elif captions.suffix.lower() == ".csv":
            with captions.open(newline="", encoding="utf-8-sig") as stream:
                yield from _of_csv(captions, stream)
        else:
            raise CorpusError(str(captions), "captions must be a .csv or a .parquet file")
    except FileNotFoundError as error:
        raise CorpusError(str(captions), "no such file") from error
    except UnicodeDecodeError as error:
        raise CorpusError(
            str(captions), "is not UTF-8; in a spreadsheet choose 'CSV UTF-8' when you save it"
        ) from error
    except (OSError, pa.ArrowException) as error:
        raise CorpusError(str(captions), f"not readable: {error}") from error


def _of_csv(captions: Path, stream: IO[str]) -> Iterator[Mapping[str, Any]]:
    first, before = next(stream, ""), 0
    delimiter = ","
    if named := _SEPARATOR.fullmatch(first):
        delimiter, first, before = named[1], next(stream, ""), 1
    else:
        names = {sign: _spelt(next(csv.reader([first], delimiter=sign), [])) for sign in _DELIMITERS}
        fitting = [sign for sign in _DELIMITERS if not set(_REQUIRED) - set(names[sign])]
        delimiter = fitting[0] if fitting else delimiter
    reader = csv.DictReader(itertools.chain([first], stream), strict=True, delimiter=delimiter)
    try:
        reader.fieldnames = _spelt(reader.fieldnames or [])
        _require(captions, reader.fieldnames)
        for row in reader:
            _check_width(captions, row, reader.fieldnames, reader.line_num + before, delimiter)
            yield row
    except csv.Error as error:
        raise CorpusError(str(captions), f"line {reader.reader.line_num + before}: {error}") from error


def _check_width(captions: Path, row: Mapping[Any, Any], names: Any, line: int, delimiter: str) -> None:
    """Refuse a row that is too long: an unquoted comma in a caption would move the creator behind it."""
    found = len(names) + len(row.get(None) or ())
    if found > len(names):
        sign = {",": "comma", ";": "semicolon", "\t": "tab"}.get(delimiter, repr(delimiter))
        raise CorpusError(
            str(captions),
            f"line {line}: {found} fields, the header has {len(names)}; "
            f'put a field that holds a {sign} in quotes: "a cat{delimiter} sitting"',
        )


def text_of(value: object) -> str:
    """A cell as text on one line: empty for nothing and for not-a-number, which is how tables of numbers write nothing.

    A whole number that such a table made a fraction is whole again; a list is its texts.
    """
    if isinstance(value, float):
        value = None if math.isnan(value) else int(value) if value.is_integer() else value
    if isinstance(value, list | tuple):
        return ", ".join(text for part in value if (text := text_of(part)))
    return "" if value is None else " ".join(str(value).split())


def _spelt(columns: Sequence[str]) -> list[str]:
    """Names of columns as they are read here, whatever their capitals: a column "Creator" is not to be passed over."""
    plain = [name.strip() for name in columns]
    found = []
    for name in plain:
        known = "_".join(name.casefold().split())
        found.append(known if known in COLUMNS and known not in plain else name)
    return found


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """A row whose texts are text: writers without a type for it store bytes."""
    return {
        name: value.decode("utf-8", "replace") if isinstance(value, bytes) else value
        for name, value in row.items()
    }


def _require(captions: Path, columns: Any) -> None:
    missing = [name for name in _REQUIRED if name not in columns]
    if missing:
        have = ", ".join(columns) or "none"
        raise CorpusError(str(captions), f"column missing: {', '.join(missing)} (columns found: {have})")
    # Spreadsheets write columns that were never used.
    doubled = next((name for name in columns if name and list(columns).count(name) > 1), None)
    if doubled is not None:
        raise CorpusError(str(captions), f"column {doubled} is there twice")
