"""Files that say who may call: read again when they change, and only if nobody but their owner can change them."""

from __future__ import annotations

import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from time import monotonic
from typing import Generic, TypeVar

import structlog

from attributary.errors import InvalidArgumentError

log = structlog.get_logger(__name__)

T = TypeVar("T")

# How often a file is looked at, at most.
_EVERY_S = 1.0


def read_guarded(path: Path, field: str) -> bytes:
    """Return a file's bytes; raises InvalidArgumentError naming `field` if anybody at all may write it."""
    try:
        mode = path.stat().st_mode
        data = path.read_bytes()
    except OSError as error:
        raise InvalidArgumentError(field, f"cannot be read: {error}") from None
    if mode & stat.S_IWOTH:
        raise InvalidArgumentError(
            field, f"{path} can be changed by anybody (mode {stat.S_IMODE(mode):03o}); run chmod o-w on it"
        )
    return data


class Watched(Generic[T]):
    """What some files say. A change that cannot be read is logged, and what they said before holds."""

    def __init__(self, read: Callable[[], T], paths: Sequence[Path]) -> None:
        self._read, self._paths = read, paths
        self._stamp = self._look()
        self._value = read()
        self._next = monotonic() + _EVERY_S

    @property
    def value(self) -> T:
        """What they say now. Callable from any thread."""
        now = monotonic()
        if now >= self._next:
            self._next = now + _EVERY_S
            self.refresh()
        return self._value

    def refresh(self) -> None:
        """Look now."""
        found = self._look()
        if found == self._stamp:
            return
        self._stamp = found
        names = [str(path) for path in self._paths]
        try:
            self._value = self._read()
        except InvalidArgumentError as error:
            unusable = "files have changed and cannot be used; what they said before holds"
            log.error(unusable, files=names, reason=str(error))
        else:
            log.info("files were read again", files=names)

    def _look(self) -> tuple[tuple[int, int, int] | None, ...]:
        return tuple(stamp(path) for path in self._paths)


def stamp(path: Path) -> tuple[int, int, int] | None:
    """What tells a file from the one that was at its place before; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
