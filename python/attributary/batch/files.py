"""Writing so that a file is whole under its name or not there, and always with the same bytes."""

from __future__ import annotations

import csv
import errno
import io
import os
import secrets
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from attributary.bundle.files import sync, write_whole
from attributary.errors import OutputError
from attributary.plain import cell

TEMPORARY = ".tmp"


def parquet_bytes(table: pa.Table, facts: Mapping[str, str]) -> bytes:
    """Return the one Parquet file that the contract knows for a table; `facts` go into the footer's metadata."""
    # Chunks as the table came by them would show in its pages.
    whole = table.combine_chunks().replace_schema_metadata(dict(facts))
    sink = pa.BufferOutputStream()
    pq.write_table(
        whole,
        sink,
        row_group_size=max(1, len(whole)),
        version="2.6",
        data_page_version="1.0",
        compression="zstd",
        compression_level=3,
        use_dictionary=True,
        write_statistics=True,
        write_page_checksum=True,
        store_schema=True,
    )
    return bytes(sink.getvalue())


def csv_bytes(header: Sequence[str], rows: Iterable[Sequence[object]]) -> bytes:
    """Return a CSV file: UTF-8, RFC 4180 quoting, LF; no text in it is a spreadsheet's formula."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([cell(value) for value in row] for row in rows)
    return text.getvalue().encode("utf-8", "backslashreplace")


def commit(path: Path, data: bytes, name: str) -> None:
    """Put a file under its name, flushed to disk; `name` is what errors call it.

    Raises OutputError; what was written of it is then removed. After a kill it is left under a name that
    `remove_unfinished` knows.
    """
    scratch = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}{TEMPORARY}")
    try:
        write_whole(path, data, scratch)
    except OSError as error:
        raise _refused(error, name) from error


def make_directory(path: Path, name: str) -> None:
    """Make a directory that outlives a power cut; no error if it is there. Raises OutputError."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        sync(path.parent)
    except OSError as error:
        raise _refused(error, name) from error


def remove_unfinished(directory: Path) -> None:
    """Remove what killed writers left behind. Raises OutputError."""
    for path in directory.glob(f".*{TEMPORARY}"):
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise _refused(error, path.name) from error


def _refused(error: OSError, name: str) -> OutputError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return OutputError(
            name, f"cannot be written: {error.strerror}; make room and run the same command again"
        )
    return OutputError(name, f"cannot be written: {error.strerror}")
