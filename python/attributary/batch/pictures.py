"""Where a row's encoded picture comes from: the row itself, a path, or a URI."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pyarrow as pa
import pyarrow.fs as pafs

from attributary.errors import InvalidArgumentError, UnavailableError

from .rows import Row

_ATTEMPTS = 4
_FIRST_PAUSE_S = 0.25
# What says something about the path, not about the disk or the network behind it.
_ROWS_FAULT = frozenset(
    {
        errno.ENOENT,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.EACCES,
        errno.EPERM,
        errno.ENAMETOOLONG,
        errno.ELOOP,
        errno.EINVAL,
    }
)


def picture_of(row: Row, max_bytes: int, pause: Callable[[float], None] = time.sleep) -> bytes:
    """Return a row's encoded picture.

    A path is relative to the directory of the file that names it; a URI is one of pyarrow's file systems (file, s3, gs,
    hdfs, abfs). Raises InvalidArgumentError for the field "image" where the row is at fault (no such file, too large),
    UnavailableError where the store is, after some attempts.
    """
    if row.image is not None:
        return row.image
    uri = row.uri or ""
    if "\0" in uri or not uri:
        raise InvalidArgumentError("image", f"is no path: {uri[:80]!r}")
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            if "://" not in uri:
                return _read_local(Path(row.base, uri), max_bytes)
            if uri.startswith("file://"):
                return _read_local(Path(unquote(urlsplit(uri).path)), max_bytes)
            return _read_remote(uri, max_bytes)
        except OSError as error:
            if isinstance(error, FileNotFoundError | PermissionError) or error.errno in _ROWS_FAULT:
                reason = os.strerror(error.errno) if error.errno else "not found"
                raise InvalidArgumentError("image", f"{_short(uri)} cannot be read: {reason}") from None
            if attempt == _ATTEMPTS:
                raise UnavailableError(
                    f"{_short(uri)} cannot be read after {attempt} attempts: {error}"
                ) from error
            pause(_FIRST_PAUSE_S * 2 ** (attempt - 1))
    raise AssertionError("unreachable")


def _read_local(path: Path, max_bytes: int) -> bytes:
    # Without O_NONBLOCK a named pipe would hold the worker for ever.
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        facts = os.fstat(handle)
        if not stat.S_ISREG(facts.st_mode):
            raise InvalidArgumentError("image", f"{_short(path.name)} is not a file")
        _check_size(facts.st_size, max_bytes)
        with open(handle, "rb", closefd=False) as file:
            data = file.read(max_bytes + 1)
    finally:
        os.close(handle)
    _check_size(len(data), max_bytes)
    return data


def _read_remote(uri: str, max_bytes: int) -> bytes:
    try:
        system, path = pafs.FileSystem.from_uri(uri)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError) as error:
        raise InvalidArgumentError("image", f"{_short(uri)} cannot be read: {error}") from None
    info = system.get_file_info(path)
    if info.type != pafs.FileType.File:
        raise FileNotFoundError(errno.ENOENT, "not found", uri)
    _check_size(int(info.size or 0), max_bytes)
    with system.open_input_stream(path) as stream:
        return bytes(stream.read(max_bytes + 1))


def _check_size(size: int, most: int) -> None:
    if size > most:
        raise InvalidArgumentError("image", f"is {size} bytes long; the limit is {most} bytes")


def _short(text: str) -> str:
    return text if len(text) <= 120 else text[:117] + "..."
