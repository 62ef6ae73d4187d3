"""gRPC's connections, which its library shows to nobody: found among the files of the process (Linux).

The library knows one number for all. So that one address with all of them keeps nobody out, those of callers who have
more than their part are hung up on until an eighth is free again, as HTTP refuses them. So is one
whose answers are not taken: gRPC ends no call whose last words are on their way.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from attributary.errors import OverloadedError

from .admission import Pool
from .callers import Caller, address_of, peer_of

_FILES: Final = Path("/proc/self/fd")
_LAST: Final = 8
# Below this there is nothing to divide.
_FEW: Final = 16
# In Linux's struct tcp_info: milliseconds since something came.
_TCP_INFO_BYTES, _SILENT_AT = 60, 52


def hang_up(port: int) -> None:
    """Say on every connection to a port that nothing more will come.

    gRPC ends what it has not taken yet as CANCELLED when it stops. A connection that ends before that is UNAVAILABLE
    to whoever is still asking, and that may be asked again elsewhere. What has been sent still arrives.
    """
    for _, line in _connections(port):
        with contextlib.suppress(OSError):
            line.shutdown(socket.SHUT_WR)


def hang_up_on(peer: str) -> bool:
    """End the connection whose other end is `peer`, as gRPC writes it; return whether it was there."""
    wanted, found = (address_of(peer), peer.rpartition(":")[2]), False
    for _, line in _connections():
        with contextlib.suppress(OSError):
            host, port = line.getpeername()[:2]
            if wanted == (address_of(peer_of(host, port)), str(port)):
                line.shutdown(socket.SHUT_RDWR)
                found = True
    return found


def make_room(port: int, most: int) -> int:
    """Hang up on those who have more than their part of `most` connections to a port; return on how many.

    Nothing is done while an eighth is free. The connections that have been silent longest go first.
    """
    allowed = most - most // _LAST
    if most < _FEW or not _FILES.is_dir() or sum(1 for _ in _FILES.iterdir()) <= allowed:
        return 0
    held = defaultdict[str, list[tuple[int, int]]](list)
    for inode, line in _connections(port):
        with contextlib.suppress(OSError):
            info = line.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
            silent = struct.unpack_from("I", info, _SILENT_AT)[0]
            held[address_of(peer_of(*line.getpeername()[:2]))].append((silent, inode))
    for lines in held.values():
        lines.sort()
    part, ended = most // (len(held) + 1), set[int]()
    for _ in range(sum(map(len, held.values())) - allowed):
        largest = max(held.values(), key=len)
        if len(largest) <= part:
            break
        ended.add(largest.pop()[1])
    for inode, line in _connections(port) if ended else ():
        with contextlib.suppress(OSError):
            if inode in ended:
                line.shutdown(socket.SHUT_RDWR)
    return len(ended)


def _connections(port: int | None = None) -> Iterator[tuple[int, socket.socket]]:
    """Inode and socket of every connection (to a port); the socket is good until the next one is asked for."""
    for link in _FILES.iterdir() if _FILES.is_dir() else ():
        # It may be closed, or hung up on, meanwhile.
        with contextlib.suppress(OSError):
            if not link.is_socket():
                continue
            with socket.socket(fileno=os.dup(int(link.name))) as line:
                if line.family in {socket.AF_INET, socket.AF_INET6} and port in {None, line.getsockname()[1]}:
                    yield os.fstat(line.fileno()).st_ino, line


def count_answer(pool: Pool, size: int, caller: Caller, seconds: float) -> None:
    """Count an answer of `size` bytes until the task that is under way ends, which gRPC ends when it has been taken.

    Hangs up on its caller where that takes more than `seconds`. Raises OverloadedError for one who leaves too much.
    """
    task = asyncio.current_task()
    assert task is not None
    if not pool.has_room(size, caller.name):
        raise OverloadedError("too many answers have not been taken yet", retry_after_s=1.0)
    pool.move(size, caller)
    loop = asyncio.get_running_loop()
    late = loop.call_later(seconds, loop.run_in_executor, None, hang_up_on, caller.connection)

    def taken(_: object) -> None:
        late.cancel()
        pool.move(-size, caller)

    task.add_done_callback(taken)
