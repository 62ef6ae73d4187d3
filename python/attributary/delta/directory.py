"""A bundle's directory: one writer at a time, and a finished bundle put in its place.

The writer's lock is on `delta/lock` inside it, and ends with the process that holds it. A crash while one bundle takes
the place of another leaves one of the two there.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import shutil
from pathlib import Path

from attributary.bundle.bundle import DELTA
from attributary.bundle.files import sync
from attributary.bundle.manifest import MANIFEST
from attributary.errors import BundleError, PreconditionError

from .journal.log import cannot, lies_at

_LOCK = "lock"
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_NOT_HERE = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP)


class WriterLock:
    """The right to change a bundle. Moves with its directory: who replaces the bundle locks both."""

    def __init__(self, directory: Path, *, waiting: bool = False) -> None:
        """Take the lock of the bundle whose place is `directory`, or, `waiting`, of the one in exactly this directory.

        Raises PreconditionError if another process has it, or the folder cannot be written; BundleError if there is no
        bundle.
        """
        self._name = directory.name
        while True:
            path = (directory if waiting else standing(directory)) / DELTA / _LOCK
            self._handle = _open(path)
            self._take(path)
            # A compaction may have put another bundle here since the file was opened.
            if waiting or lies_at(self._handle, standing(directory) / DELTA / _LOCK):
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


def next_of(directory: Path) -> Path:
    """Where the bundle that will replace `directory` waits."""
    return directory.with_name(f".{directory.name}.next")


def exchange(directory: Path) -> None:
    """Put the bundle that waits in the place of `directory`, which then waits in its place; durable on return.

    In one step where the system can; where it cannot, a crash between two steps is mended by `recover`. Raises OSError,
    and then nothing has changed.
    """
    _swap(directory)
    try:
        sync(directory.parent)
    except OSError:
        _swap(directory)
        raise


def _swap(directory: Path) -> None:
    ready = next_of(directory)
    if _exchange(ready, directory):
        return
    old = _old_of(directory)
    directory.rename(old)
    try:
        ready.rename(directory)
    except OSError:
        old.rename(directory)
        raise
    old.rename(ready)


def recover(directory: Path) -> None:
    """Finish or forget what a compaction that was killed has left. The caller holds the writer's lock."""
    ready, old = next_of(directory), _old_of(directory)
    if (waiting := standing(directory)) != directory:
        # Whatever waits is complete.
        waiting.rename(directory)
        sync(directory.parent)
    for left in (ready, old, *directory.parent.glob(f".{ready.name}.*")):
        if left.is_dir():
            shutil.rmtree(left)


def standing(directory: Path) -> Path:
    """Where the bundle whose place is `directory` lies now: there, unless a compaction is or was between two renames.

    Raises BundleError if there is none.
    """
    if directory.exists():
        return directory
    for waiting in (next_of(directory), _old_of(directory)):
        if (waiting / MANIFEST).is_file():
            return waiting
    raise BundleError(MANIFEST, f"is missing from {directory}; this is not a bundle")


def _old_of(directory: Path) -> Path:
    return directory.with_name(f".{directory.name}.old")


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two names at once; False where system or file system cannot."""
    try:
        call = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        return False
    if call(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in _NOT_HERE:
        return False
    raise OSError(number, os.strerror(number), str(other))
