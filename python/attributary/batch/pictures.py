"""Where a row's encoded picture comes from: the row itself, or a path or URI that it is allowed to name.

A log is other people's text. Its paths may not lead out of the log's directory and those of `--image-root`, by `..`, by
an absolute path or by a symbolic link; its URIs only to the schemes and hosts of `--allow-uri`. For anything else
nothing is opened.
"""

from __future__ import annotations

import errno
import os
import stat
import time
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from urllib.parse import SplitResult, unquote, urlsplit

import pyarrow as pa
import pyarrow.fs as pafs

from attributary.errors import InvalidArgumentError, UnavailableError

from .naming import is_below
from .rows import Row

# Those of Arrow's own file systems; it would take any other to whatever package claims it.
_SCHEMES = ("s3", "gs", "gcs", "abfs", "abfss", "hdfs", "viewfs")
_OUTSIDE = "is outside the log's directory; --image-root allows another"
_ATTEMPTS = 4
_FIRST_PAUSE_S = 0.25
# What says something about the path, not about the disk or the network behind it.
_ROWS_FAULT = frozenset(
    {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ELOOP}
    | {errno.EINVAL, errno.ENXIO}
)


@dataclass(frozen=True, slots=True)
class Access:
    """What a log's rows may name: directories, and URIs of these schemes and hosts (`s3://bucket?region=...`)."""

    roots: tuple[str, ...] = ()
    uris: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for uri in self.uris:
            parts = _split(uri, "allow_uri")
            if parts.scheme.lower() not in _SCHEMES or not parts.netloc:
                schemes = ", ".join(_SCHEMES)
                raise InvalidArgumentError("allow_uri", f"must be scheme://host of {schemes}, got {uri!r}")


_NOTHING = Access()


def picture_of(
    row: Row, max_bytes: int, access: Access = _NOTHING, pause: Callable[[float], None] = time.sleep
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
            path = local_path(row.base, uri)
            if path is not None:
                return _read_local(path, row.root or row.base, access, max_bytes)
            return _read_remote(uri, _split(uri, "image"), access, max_bytes)
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


def local_path(base: str, uri: str) -> Path | None:
    """The file of this machine that a path or a file: URI names; None for another URI.

    A path as it stands comes first; one that leads nowhere may have another system's separators, the other form of an
    accent, or blanks around it. Raises InvalidArgumentError for what is no URI and for a file of another machine.
    """
    if "://" in uri:
        parts = _split(uri, "image")
        if parts.scheme.lower() != "file":
            return None
        if parts.netloc not in ("", "localhost"):
            raise InvalidArgumentError("image", f"{_short(uri)} is on another machine")
        uri = unquote(parts.path)
    ways = [uri, uri.strip(), uri.strip().replace("\\", "/")]
    ways += [unicodedata.normalize(form, ways[-1]) for form in ("NFC", "NFD")]
    # A name may be none that a disk can hold.
    return next((path for way in ways if os.path.lexists(path := Path(base, way))), Path(base, uri))


def _read_local(path: Path, root: str, access: Access, max_bytes: int) -> bytes:
    with open_below(path, root, access.roots) as file:
        _check_size(os.fstat(file.fileno()).st_size, max_bytes)
        data = file.read(max_bytes + 1)
    _check_size(len(data), max_bytes)
    return data


def _read_remote(uri: str, parts: SplitResult, access: Access, max_bytes: int) -> bytes:
    allowed = next((given for given in access.uris if _same_place(_split(given, "allow_uri"), parts)), None)
    if allowed is None:
        place = f"{parts.scheme}://{parts.hostname or ''}"
        raise InvalidArgumentError(
            "image", f"{_short(place)} is not allowed; --allow-uri allows a scheme and host"
        )
    if parts.query or parts.username or parts.password:
        # They name other servers, and keys.
        raise InvalidArgumentError(
            "image", "a URI of a log may hold no options and no keys; --allow-uri has them"
        )
    query = _split(allowed, "allow_uri").query
    try:
        system, path = pafs.FileSystem.from_uri(f"{uri}?{query}" if query else uri)
    except (pa.ArrowException, ValueError, ImportError, NotImplementedError, KeyError) as error:
        raise InvalidArgumentError("image", f"{_short(uri)} cannot be read: {_short(str(error))}") from None
    info = system.get_file_info(path)
    if info.type != pafs.FileType.File:
        raise FileNotFoundError(errno.ENOENT, "not found", uri)
    _check_size(int(info.size or 0), max_bytes)
    with system.open_input_stream(path) as stream:
        return bytes(stream.read(max_bytes + 1))


def _check_size(size: int, most: int) -> None:
    if size > most:
        raise InvalidArgumentError("image", f"is {size} bytes long; the limit is {most} bytes")


def open_below(path: Path, root: str, roots: Sequence[str], field: str = "image") -> IO[bytes]:
    """Open a regular file for reading that really lies in one of the directories.

    Raises OSError, and InvalidArgumentError for a file that lies elsewhere or is none.
    """
    allowed = [os.path.realpath(place) for place in (root, *roots)]
    real = os.path.realpath(path)
    if not any(is_below(real, place) for place in allowed):
        raise InvalidArgumentError(field, f"{_short(path.name)} {_OUTSIDE}")
    # Without O_NONBLOCK a named pipe would hold the worker for ever.
    handle = os.open(real, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise InvalidArgumentError(field, f"{_short(path.name)} is not a file")
        opened = _place(handle)
        if opened is not None and not any(is_below(opened, place) for place in allowed):
            # A directory on the way was exchanged meanwhile.
            raise InvalidArgumentError(field, f"{_short(path.name)} {_OUTSIDE}")
    except BaseException:
        os.close(handle)
        raise
    return os.fdopen(handle, "rb")


def _place(handle: int) -> str | None:
    """Where an open file is; None where the system does not say."""
    try:
        return str(Path(f"/proc/self/fd/{handle}").readlink())
    except OSError:
        return None


def _same_place(allowed: SplitResult, wanted: SplitResult) -> bool:
    """Whether a URI has the scheme and host of an allowed one, and its path or one below."""
    same = allowed.scheme.lower() == wanted.scheme.lower() and allowed.hostname == wanted.hostname
    prefix = allowed.path.rstrip("/")
    steps = unquote(wanted.path).split("/")
    below = not prefix or (wanted.path == prefix or wanted.path.startswith(prefix + "/"))
    return same and allowed.port == wanted.port and below and ".." not in steps


def _split(uri: str, field: str) -> SplitResult:
    """Return a URI's parts; raises InvalidArgumentError."""
    try:
        parts = urlsplit(uri)
        # Both raise for what is none.
        _ = parts.port, parts.hostname
    except ValueError as error:
        raise InvalidArgumentError(field, f"is no URI: {error}") from None
    return parts


def _short(text: str) -> str:
    """The beginning of a text that a message quotes."""
    return text if len(text) <= 120 else text[:117] + "..."
