"""One writer a bundle: a lock on `delta/lock` inside it, which ends with the process that holds it."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

from attributary.bundle.bundle import DELTA
from attributary.errors import PreconditionError

from .journal.log import cannot
from .replace import standing

_NAME = "lock"


class WriterLock:
    """The right to change a bundle. Moves with its directory: who replaces the bundle locks both."""

    def __init__(self, directory: Path, *, waiting: bool = False) -> None:
        """Take the lock of the bundle whose place is `directory`, or, `waiting`, of the one in exactly this directory.

        Raises PreconditionError if another process has it, or the folder cannot be written; BundleError if there is no
        bundle.
        """
        self._name = directory.name
        while True:
            path = (directory if waiting else standing(directory)) / DELTA / _NAME
            self._handle = _open(path)
            self._take(path)
            # A compaction may have put another bundle here since the file was opened.
            if waiting or _same(self._handle, standing(directory) / DELTA / _NAME):
                break
            self.release()
        os.truncate(self._handle, 0)
        os.pwrite(self._handle, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Give the lock back."""
        os.close(self._handle)

    def _take(self, path: Path) -> None:
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(self._handle, 64, 0).decode(errors="replace").strip() or "?"
            self.release()
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise cannot(path, "be locked", error) from error
            raise PreconditionError(
                "bundle",
                f"process {holder} is changing {self._name}; one writer at a time: end it, or ask it through its admin "
                "service (--address)",
            ) from None


def _open(path: Path) -> int:
    try:
        path.parent.mkdir(exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise cannot(path, "be made", error) from error


def _same(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except OSError:
        return False
