"""One writer a bundle: a lock on a file of its journal's folder, which ends with the process that holds it."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

from attributary.errors import PreconditionError
from attributary.journal.log import cannot

_NAME = "lock"


class WriterLock:
    """The right to change a bundle."""

    def __init__(self, folder: Path) -> None:
        """Take the lock; raises PreconditionError if another process has it, or the folder cannot be written."""
        path = folder / _NAME
        try:
            folder.mkdir(exist_ok=True)
            self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise cannot(path, "be made", error) from error
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(self._handle, 64, 0).decode(errors="replace").strip() or "?"
            os.close(self._handle)
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise cannot(path, "be locked", error) from error
            raise PreconditionError(
                "bundle",
                f"process {holder} is changing {folder.name.removesuffix('.journal')}; one writer at a time: end it, "
                "or ask it through its admin service (--address)",
            ) from None
        os.truncate(self._handle, 0)
        os.pwrite(self._handle, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Give the lock back."""
        os.close(self._handle)
