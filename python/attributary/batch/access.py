"""What a log's rows may make a run read.

A log is other people's text. Its paths may not lead out of the log's directory and those of `--image-root`, by `..`, by
an absolute path or by a symbolic link; its URIs only to the schemes and hosts of `--allow-uri`.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from urllib.parse import SplitResult, unquote, urlsplit

from attributary.errors import InvalidArgumentError

# Those of Arrow's own file systems; it would take any other to whatever package claims it.
_SCHEMES = ("s3", "gs", "gcs", "abfs", "abfss", "hdfs", "viewfs")
_OUTSIDE = "is outside the log's directory; --image-root allows another"


def is_below(path: str, root: str) -> bool:
    """Whether a real path is a real directory or below it."""
    return path == root or path.startswith(root.rstrip(os.sep) + os.sep)


@dataclass(frozen=True, slots=True)
class Access:
    """What a log's rows may name: directories, and URIs of these schemes and hosts (`s3://bucket?region=...`)."""

    roots: tuple[str, ...] = ()
    uris: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for uri in self.uris:
            parts = split(uri, "allow_uri")
            if parts.scheme.lower() not in _SCHEMES or not parts.netloc:
                schemes = ", ".join(_SCHEMES)
                raise InvalidArgumentError("allow_uri", f"must be scheme://host of {schemes}, got {uri!r}")


def open_below(path: Path, root: str, roots: Sequence[str], field: str = "image") -> IO[bytes]:
    """Open a regular file for reading that really lies in one of the directories.

    Raises OSError, and InvalidArgumentError for a file that lies elsewhere or is none.
    """
    allowed = [os.path.realpath(place) for place in (root, *roots)]
    real = os.path.realpath(path)
    if not any(is_below(real, place) for place in allowed):
        raise InvalidArgumentError(field, f"{short(path.name)} {_OUTSIDE}")
    # Without O_NONBLOCK a named pipe would hold the worker for ever.
    handle = os.open(real, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise InvalidArgumentError(field, f"{short(path.name)} is not a file")
        opened = _place(handle)
        if opened is not None and not any(is_below(opened, place) for place in allowed):
            # A directory on the way was exchanged meanwhile.
            raise InvalidArgumentError(field, f"{short(path.name)} {_OUTSIDE}")
    except BaseException:
        os.close(handle)
        raise
    return os.fdopen(handle, "rb")


# Those of Arrow's own file systems; it would take any other to whatever package claims it.
_SCHEMES = ("s3", "gs", "gcs", "abfs", "abfss", "hdfs", "viewfs")
_OUTSIDE = "is outside the log's directory; --image-root allows another"


def _place(handle: int) -> str | None:
    """Where an open file is; None where the system does not say."""
    try:
        return str(Path(f"/proc/self/fd/{handle}").readlink())
    except OSError:
        return None


def same_place(allowed: SplitResult, asked: SplitResult) -> bool:
    """Whether a URI has the scheme and host of an allowed one, and its path or one below."""
    same = allowed.scheme.lower() == asked.scheme.lower() and allowed.hostname == asked.hostname
    prefix = allowed.path.rstrip("/")
    steps = unquote(asked.path).split("/")
    below = not prefix or (asked.path == prefix or asked.path.startswith(prefix + "/"))
    return same and allowed.port == asked.port and below and ".." not in steps


def split(uri: str, field: str) -> SplitResult:
    """Return a URI's parts; raises InvalidArgumentError."""
    try:
        parts = urlsplit(uri)
        # Both raise for what is none.
        _ = parts.port, parts.hostname
    except ValueError as error:
        raise InvalidArgumentError(field, f"is no URI: {error}") from None
    return parts


def short(text: str) -> str:
    """The beginning of a text that a message quotes."""
    return text if len(text) <= 120 else text[:117] + "..."
