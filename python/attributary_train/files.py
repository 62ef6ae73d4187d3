"""Files that are there whole or not at all, and the errors of those that cannot be written or read."""

from __future__ import annotations

import contextlib
import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pyarrow as pa

from attributary_train.errors import TrainError

_OF_READING = (
    OSError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    zipfile.BadZipFile,
    pa.ArrowException,
)


@contextmanager
def whole(path: Path, error: type[TrainError]) -> Iterator[IO[bytes]]:
    """Yield a file beside `path` to be filled; it takes its place once the block is through, also if the power fails.

    Raises `error` naming `path` if it cannot be written, and takes the part away.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with writing(path, error):
            path.parent.mkdir(parents=True, exist_ok=True)
            with part.open("wb") as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            part.replace(path)
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def write_text(path: Path, text: str, error: type[TrainError]) -> None:
    """Write a file of UTF-8, `whole`."""
    with whole(path, error) as stream:
        stream.write(text.encode())


@contextmanager
def writing(path: Path, error: type[TrainError]) -> Iterator[None]:
    """Raise `error` naming `path` if what is written inside fails: a full disk, a folder without permission."""
    try:
        yield
    except Exception as failure:
        if not _of_writing(failure):
            raise
        raise error(
            str(path), f"cannot be written: {failure}; free space and start again to go on"
        ) from failure


@contextmanager
def reading(path: Path, error: type[TrainError], what: str = "not readable") -> Iterator[None]:
    """Raise `error` naming `path`, and saying `what`, if what is read inside is missing, damaged or of another form."""
    try:
        yield
    except Exception as failure:
        # By name: a corpus is built where safetensors is not installed.
        if not isinstance(failure, _OF_READING) and type(failure).__name__ != "SafetensorError":
            raise
        reason = repr(failure) if isinstance(failure, KeyError) else failure
        raise error(str(path), f"{what}: {reason}") from failure


def _of_writing(failure: Exception) -> bool:
    # By name: a corpus is built where neither safetensors nor torch are installed.
    if isinstance(failure, OSError) or type(failure).__name__ == "SafetensorError":
        return True
    words = str(failure)  # How torch.save reports a full disk.
    return isinstance(failure, RuntimeError) and (
        "inline_container" in words or "PytorchStreamWriter" in words
    )
