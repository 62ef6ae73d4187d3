"""The table beside a folder of one's own pictures: CSV as spreadsheets and scripts write it, or Parquet."""

from __future__ import annotations

import csv
import itertools
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from attributary_train.errors import CorpusError

_REQUIRED = ("file", "caption")
# What separates fields: Excel writes semicolons where the comma is the decimal sign, and tabs as "text".
_DELIMITERS = ",;\t"
# A first line by which Excel is told the delimiter.
_SEPARATOR = re.compile(r'"?sep=(.)"?\s*')


def caption_rows(captions: Path) -> Iterator[Mapping[str, Any]]:
    """Read the table row by row; raises `CorpusError` naming the file, and its missing columns or the wrong line."""
    try:
        if captions.suffix.lower() == ".parquet":
            with pq.ParquetFile(captions) as table:
                _require(captions, table.schema_arrow.names)
                for batch in table.iter_batches(1024):
                    yield from batch.to_pylist()
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
        names = {sign: next(csv.reader([first], delimiter=sign), []) for sign in _DELIMITERS}
        fitting = [
            sign for sign in _DELIMITERS if not set(_REQUIRED) - {name.strip() for name in names[sign]}
        ]
        delimiter = fitting[0] if fitting else delimiter
    reader = csv.DictReader(itertools.chain([first], stream), strict=True, delimiter=delimiter)
    try:
        reader.fieldnames = [name.strip() for name in reader.fieldnames or []]
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


def _require(captions: Path, columns: Any) -> None:
    missing = [name for name in _REQUIRED if name not in columns]
    if missing:
        have = ", ".join(columns) or "none"
        raise CorpusError(str(captions), f"column missing: {', '.join(missing)} (columns found: {have})")
    doubled = next((name for name in columns if list(columns).count(name) > 1), None)
    if doubled is not None:
        raise CorpusError(str(captions), f"column {doubled} is there twice")
