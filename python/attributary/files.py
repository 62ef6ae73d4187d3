"""Files that a user named, read and written: what goes wrong is said in terms of the argument that named them."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from attributary.errors import InvalidArgumentError

# Bytes of a file that somebody named and whose limit is known elsewhere: a film, or a device without an end, would fill
# the memory before it is refused there. No gRPC message may be larger.
_MOST: Final = 1 << 31
_PART: Final = 1 << 24


def read_file(path: Path, field: str, most: int | None = None) -> bytes:
    """Return a file's bytes, no more than one beyond `most`: enough to refuse it. Raises InvalidArgumentError.

    Without `most` a file of more than 2 GiB is refused here.
    """
    try:
        with path.open("rb") as file:
            if most is not None:
                return file.read(most + 1)
            # A device says nothing of its size, and asking for all at once would take it.
            data = bytearray()
            while len(data) <= _MOST and os.fstat(file.fileno()).st_size <= _MOST:
                if not (part := file.read(_PART)):
                    return bytes(data)
                data += part
    except OSError as error:
        raise InvalidArgumentError(field, f"{path} cannot be read: {error.strerror}") from None
    raise InvalidArgumentError(field, f"{path} is larger than {_MOST} bytes")


def read_facts(path: Path, field: str, version: int) -> dict[str, Any]:
    """Return what a JSON file of one schema version says; raises InvalidArgumentError naming `field`."""
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidArgumentError(field, f"{path} cannot be read: {error}") from error
    found = facts.pop("schema_version", None) if isinstance(facts, dict) else None
    if found != version:
        raise InvalidArgumentError(field, f"{path} has schema version {found!r}; this build reads {version}")
    return dict(facts)


def write_file(path: Path, data: bytes) -> None:
    """Write a file whole or not at all, and the folder that it is to lie in; raises InvalidArgumentError."""
    # Half a statement is somebody's money. A device or a pipe is no file to replace.
    place = path if path.exists() and not path.is_file() else Path(os.path.realpath(path))
    scratch = place if place is path else place.with_name(f".{place.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch.write_bytes(data)
        if scratch is not place:
            scratch.replace(place)
    except OSError as error:
        if scratch is not place:
            with suppress(OSError):
                scratch.unlink(missing_ok=True)
        raise InvalidArgumentError("out", f"{path} cannot be written: {error.strerror}") from None
