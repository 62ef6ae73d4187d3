"""Where a row's encoded picture comes from: the row itself, or a path or URI that it is allowed to name.

What it may name is told in `access.py`; everything else is an error row, and nothing is opened for it.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import SplitResult, unquote

import pyarrow as pa
import pyarrow.fs as pafs

from attributary.errors import InvalidArgumentError, UnavailableError

from .access import Access, open_below, same_place, short, split
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
        errno.ENXIO,
    }
)


NONE = Access()


def picture_of(
    row: Row, max_bytes: int, access: Access = NONE, pause: Callable[[float], None] = time.sleep
) -> bytes:
    """Return a row's encoded picture.

    A path is relative to the directory of the file that names it; a URI is one of pyarrow's file systems (file, s3, gs,
    hdfs, abfs). Raises InvalidArgumentError for the field "image" where the row is at fault (no such file, too large,
    not allowed), UnavailableError where the store is, after some attempts.
    """
    if row.image is not None:
        return row.image
    uri = row.uri or ""
    if "\0" in uri or not uri:
        raise InvalidArgumentError("image", f"is no path: {uri[:80]!r}")
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            if "://" not in uri:
                return _read_local(Path(row.base, uri), row.root or row.base, access, max_bytes)
            parts = split(uri, "image")
            if parts.scheme.lower() == "file":
                if parts.netloc not in ("", "localhost"):
                    raise InvalidArgumentError("image", f"{short(uri)} is on another machine")
                return _read_local(Path(unquote(parts.path)), row.root or row.base, access, max_bytes)
            return _read_remote(uri, parts, access, max_bytes)
        except OSError as error:
            if isinstance(error, FileNotFoundError | PermissionError) or error.errno in _ROWS_FAULT:
                reason = os.strerror(error.errno) if error.errno else "not found"
                raise InvalidArgumentError("image", f"{short(uri)} cannot be read: {reason}") from None
            if attempt == _ATTEMPTS:
                raise UnavailableError(
                    f"{short(uri)} cannot be read after {attempt} attempts: {error}"
                ) from error
            pause(_FIRST_PAUSE_S * 2 ** (attempt - 1))
    raise AssertionError("unreachable")


def _read_local(path: Path, root: str, access: Access, max_bytes: int) -> bytes:
    with open_below(path, root, access.roots) as file:
        _check_size(os.fstat(file.fileno()).st_size, max_bytes)
        data = file.read(max_bytes + 1)
    _check_size(len(data), max_bytes)
    return data


def _read_remote(uri: str, parts: SplitResult, access: Access, max_bytes: int) -> bytes:
    allowed = next((given for given in access.uris if same_place(split(given, "allow_uri"), parts)), None)
    if allowed is None:
        place = f"{parts.scheme}://{parts.hostname or ''}"
        raise InvalidArgumentError(
            "image", f"{short(place)} is not allowed; --allow-uri allows a scheme and host"
        )
    if parts.query or parts.username or parts.password:
        # They name other servers, and keys.
        raise InvalidArgumentError(
            "image", "a URI of a log may hold no options and no keys; --allow-uri has them"
        )
    query = split(allowed, "allow_uri").query
    try:
        system, path = pafs.FileSystem.from_uri(f"{uri}?{query}" if query else uri)
    except (pa.ArrowException, ValueError, ImportError, NotImplementedError, KeyError) as error:
        raise InvalidArgumentError("image", f"{short(uri)} cannot be read: {short(str(error))}") from None
    info = system.get_file_info(path)
    if info.type != pafs.FileType.File:
        raise FileNotFoundError(errno.ENOENT, "not found", uri)
    _check_size(int(info.size or 0), max_bytes)
    with system.open_input_stream(path) as stream:
        return bytes(stream.read(max_bytes + 1))


def _check_size(size: int, most: int) -> None:
    if size > most:
        raise InvalidArgumentError("image", f"is {size} bytes long; the limit is {most} bytes")
