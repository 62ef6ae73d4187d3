"""Files that a user named, read and written: what goes wrong is said in terms of the argument that named them."""

from __future__ import annotations

from pathlib import Path

from attributary.errors import InvalidArgumentError


def read_file(path: Path, field: str, most: int | None = None) -> bytes:
    """Return a file's bytes, no more than one beyond `most`: enough to refuse it. Raises InvalidArgumentError."""
    try:
        with path.open("rb") as file:
            return file.read() if most is None else file.read(most + 1)
    except OSError as error:
        raise InvalidArgumentError(field, f"{path} cannot be read: {error.strerror}") from None


def write_file(path: Path, data: bytes) -> None:
    """Write a file, and the folder that it is to lie in; raises InvalidArgumentError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    except OSError as error:
        raise InvalidArgumentError("out", f"{path} cannot be written: {error.strerror}") from None
