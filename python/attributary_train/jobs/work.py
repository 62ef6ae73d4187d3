"""Pieces of work that any number of processes share, through a folder of locks.

A lock file a piece, held through flock, keeps two processes from the same one. The kernel frees it when its holder
dies, however it dies, so there is no lock to clean up and no process id to check.
"""

from __future__ import annotations

import contextlib
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock, Timeout

from attributary_train.errors import TrainError

# A piece whose process dies this often without getting any further is given up: it would never end.
MAX_STARTS = 3


class Orphaned(Exception):  # noqa: N818 - not an error of the piece
    """The process that started this worker is gone."""


class Work(ABC):
    """What one kind of worker does. `locks`: the folder of locks; `parent`: the supervisor's process id, None without.

    A piece is named by a string that can be a file's name. It is settled once its result is there, or the reason why
    there is none: both must appear whole or not at all. What a piece itself is to blame for is recorded by `make`;
    what `make` raises of OSError, TrainError, or to stop, is not held against the piece.
    """

    def __init__(self, locks: Path, parent: int | None = None) -> None:
        self.locks = locks
        self.parent = parent

    @abstractmethod
    def names(self) -> Sequence[str]:
        """Every piece, in the order in which they are begun."""

    @abstractmethod
    def settled(self, name: str) -> bool:
        """Whether nothing is left to do for a piece."""

    @abstractmethod
    def make(self, name: str) -> None:
        """Settle a piece, going on from where it was left."""

    @abstractmethod
    def give_up(self, name: str, reason: str) -> None:
        """Settle a piece by recording why it is not made."""

    def mark(self, name: str) -> int:
        """Changes whenever a piece has got further; its starts are counted anew then."""
        return 0

    def require_parent(self) -> None:
        """Raise `Orphaned` if the supervisor is gone; a long `make` asks now and then."""
        if self.parent is not None and os.getppid() != self.parent:
            raise Orphaned


def attempt(work: Work, name: str) -> bool:
    """Make a piece unless it is settled or another process is at it; says whether it is settled."""
    work.require_parent()
    if work.settled(name):
        return True
    lock = FileLock(work.locks / f"{name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    try:
        if not work.settled(name):
            _make(work, name)
    finally:
        lock.release()
    return True


def starts_path(locks: Path, name: str) -> Path:
    """Where it is counted how often a piece was begun by a process that then died."""
    return locks / f"{name}.starts"


def _make(work: Work, name: str) -> None:
    counter, mark = starts_path(work.locks, name), work.mark(name)
    starts = _starts(counter, mark) + 1
    if starts > MAX_STARTS:
        work.give_up(name, f"its worker died {MAX_STARTS} times")
    else:
        _write_starts(counter, mark, starts)
        try:
            work.make(name)
        except (Orphaned, KeyboardInterrupt, SystemExit, OSError, TrainError):
            # Stopped from outside, or no room to write: nothing that the piece is to blame for. A disk that is full
            # still lets a file go.
            with contextlib.suppress(OSError):
                _write_starts(counter, mark, starts - 1)
            raise
    counter.unlink(missing_ok=True)


def _starts(counter: Path, mark: int) -> int:
    """Starts since a piece last got further; a torn count is read as none."""
    try:
        known = json.loads(counter.read_text())
        if isinstance(known, int):  # as older folders have it
            return known
        return int(known["starts"]) if known["mark"] == mark else 0
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def _write_starts(counter: Path, mark: int, starts: int) -> None:
    if starts:
        counter.write_text(json.dumps({"mark": mark, "starts": starts}))
    else:
        counter.unlink(missing_ok=True)
