"""Memory shared with a Triton on the same machine: large tensors are written once and not sent."""

from __future__ import annotations

import contextlib
import mmap
import os
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

SIZE: Final = 16 << 20
# Below this a tensor is sent: finding a place for it costs as much.
LEAST: Final = 32 << 10
_FOLDER: Final = Path("/dev/shm")
_PREFIX: Final = "attributary-gateway"
_ALIGNMENT: Final = 64


class Region:
    """A block of POSIX shared memory with a name that nobody can guess, and who uses which part of it.

    All of it is reserved when it is made: OSError where there is no /dev/shm or no room in it.
    """

    def __init__(self, size: int = SIZE) -> None:
        self.name = f"{_PREFIX}-{_owner(os.getpid())}-{secrets.token_hex(8)}"
        self.size = size
        self._taken: dict[int, int] = {}  # start -> end
        self._path = _FOLDER / self.name
        handle = os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        try:
            # Not ftruncate alone: a page that cannot be had later would end the process with SIGBUS.
            os.posix_fallocate(handle, 0, size)
            self._memory = mmap.mmap(handle, size)
        except OSError:
            self._path.unlink()
            raise
        finally:
            os.close(handle)

    @property
    def key(self) -> str:
        """The name as shm_open takes it."""
        return "/" + self.name

    def unlink(self) -> None:
        """Take the name away once the other side has it mapped: a process that is killed leaves nothing then."""
        self._path.unlink(missing_ok=True)

    def put(self, array: NDArray[np.generic]) -> int | None:
        """Copy an array in; return its offset in bytes, None where there is no room. `free` gives it back."""
        start = self._place(array.nbytes)
        if start is None:
            return None
        target = np.frombuffer(self._memory, array.dtype, array.size, start).reshape(array.shape)
        np.copyto(target, array)
        self._taken[start] = start + array.nbytes
        return start

    def free(self, starts: Iterable[int]) -> None:
        """Give places back."""
        for start in starts:
            del self._taken[start]

    def _place(self, size: int) -> int | None:
        at = 0
        for start in sorted(self._taken):
            if start - at >= size:
                break
            at = -(-self._taken[start] // _ALIGNMENT) * _ALIGNMENT
        return at if at + size <= self.size else None


def abandoned(name: str) -> bool:
    """Say whether a region's name is that of a process which is gone; False where this cannot be known."""
    head, _, _ = name.removeprefix(_PREFIX + "-").rpartition("-")
    parts = head.split("-")
    if not name.startswith(_PREFIX + "-") or len(parts) != 3 or not parts[1].isdigit():
        return False
    # Process ids of another container mean nothing here.
    return parts[0] == _namespace() and _owner(int(parts[1])) != head


def sweep() -> None:
    """Remove the names that killed processes have left in /dev/shm."""
    for path in _FOLDER.glob(_PREFIX + "-*"):
        if abandoned(path.name):
            with contextlib.suppress(OSError):
                path.unlink()


def _owner(process: int) -> str:
    """Name a process so that no later one has the same name: namespace, id, time of its start."""
    try:
        # The second field is a name in parentheses, which may hold spaces.
        after = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return f"{_namespace()}-{process}-0"
    return f"{_namespace()}-{process}-{after[19]}"


def _namespace() -> str:
    try:
        return str(Path("/proc/self/ns/pid").stat().st_ino)
    except OSError:
        return "0"
