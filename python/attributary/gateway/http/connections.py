"""Connections over HTTP: taken one by one, so many of one caller, so many in all, counted from before any handshake.

uvicorn takes whatever comes, and counts a connection over TLS once its handshake is over, up to a minute later.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import structlog
from starlette.responses import Response

from attributary.errors import OverloadedError

from .. import callers
from ..admission import Pool
from ..callers import Caller
from ..errors import to_status
from .protocol import Protocol
from .replies import refusal
from .turns import Turns

log = structlog.get_logger(__name__)

# Below this there is nothing to divide.
_FEW: Final = 16
_HANDSHAKE_S: Final = 10
# As many as may wait to be taken.
_AT_ONCE: Final = 1_024
# Where the system has no more files or memory, asking at once again would be all that the event loop does.
_AGAIN_S: Final = 0.1


class Connections:
    """Takes connections from a listening socket. `start`, then `stop`; used from the event loop."""

    def __init__(
        self,
        listener: socket.socket,
        make: Callable[[str], Protocol],
        most: int,
        tls: ssl.SSLContext | None,
        turns: Turns,
        refused: Callable[[], None],
    ) -> None:
        """`make` is of the protocol of a connection from an address, `refused` is told of each one that is refused."""
        self._turns = turns
        self._listener, self._make, self._tls, self._refused = listener, make, tls, refused
        self._pool = Pool(most, _FEW, 0.0)
        self._tasks: set[asyncio.Task[None]] = set()
        error = OverloadedError(
            f"there are as many connections as there may be, of {most}", retry_after_s=1.0
        )
        self._no = b"" if tls is not None else _as_sent(refusal(to_status(error)))

    def start(self) -> None:
        """Begin to take connections."""
        asyncio.get_running_loop().add_reader(self._listener, self._accept)

    async def stop(self) -> None:
        """Take no more, and forget those that are still in their handshake. Stopping twice is no error."""
        if self._listener.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self) -> None:
        """Take what has come: all of it, since a busy event loop comes here seldom."""
        for _ in range(_AT_ONCE):
            try:
                line, address = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                log.error("connections cannot be taken", reason=error.strerror)
                loop = asyncio.get_running_loop()
                loop.remove_reader(self._listener)
                loop.call_later(_AGAIN_S, self._again)
                return
            line.setblocking(False)
            caller = Caller(callers.address_of(callers.peer_of(*address[:2])))
            if self._pool.used >= self._pool.most or not self._pool.is_fair(1, caller.name):
                self._refused()
                with contextlib.suppress(OSError), line:
                    line.send(self._no)
                continue
            self._pool.move(1, caller)
            task = asyncio.get_running_loop().create_task(self._serve(line, caller))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            task.add_done_callback(lambda _, caller=caller: self._pool.move(-1, caller))  # type: ignore[misc]

    def _again(self) -> None:
        # Else it was stopped meanwhile.
        if self._listener.fileno() >= 0:
            self.start()

    async def _serve(self, line: socket.socket, caller: Caller) -> None:
        try:
            await self._turns.queue((caller.name, ""))
        except asyncio.CancelledError:
            line.close()
            raise
        limit: Any = {} if self._tls is None else {"ssl_handshake_timeout": _HANDSHAKE_S}
        # What goes wrong in a handshake is its caller's affair.
        with contextlib.suppress(OSError):
            _, protocol = await asyncio.get_running_loop().connect_accepted_socket(
                partial(self._make, caller.name), line, ssl=self._tls, **limit
            )
            await protocol.gone.wait()


def _as_sent(response: Response) -> bytes:
    """A response as it is written to a connection that is closed behind it."""
    headers = b"".join(b"%s: %s\r\n" % pair for pair in response.raw_headers)
    return b"HTTP/1.1 %d \r\n%sconnection: close\r\n\r\n%s" % (
        response.status_code,
        headers,
        bytes(response.body),
    )
