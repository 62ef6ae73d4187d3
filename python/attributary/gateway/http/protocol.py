"""HTTP/1.1 for callers who send slowly or say nothing: what uvicorn leaves open."""

from __future__ import annotations

import asyncio
import re
import ssl
from typing import Any, Final

import h11
from h11._receivebuffer import ReceiveBuffer
from starlette.types import Receive, Scope, Send
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from ..admission import Pool
from ..callers import Caller
from ..fairness import Turns

# Chunks of a body are read one by one in Python, 30 us each, all that have come in one turn: so many hold the event
# loop up for 8 ms. Programs send some KB in each.
_FEW_CHUNKS: Final = 256
_CHUNK_BYTES: Final = 512


# As many as other servers take. Each takes some microseconds, and a caller's first 256 KB come at once.
_HEAD_LINES: Final = 128
_HEAD_BYTES: Final = 32 << 10
_HEAD_END: Final = re.compile(rb"\n\r?\n")


class _Received(ReceiveBuffer):
    """What has come, without heads and trailers of a thousand lines."""

    def maybe_extract_lines(self) -> list[bytearray] | None:
        """Return the lines of a head that is whole; raises RemoteProtocolError for too many, before they are parsed."""
        head = bytes(self)[:_HEAD_BYTES]
        end = _HEAD_END.search(head)
        lines = head.count(b"\n", 0, end.start() if end else None)
        if lines > _HEAD_LINES or (end is None and len(self) > _HEAD_BYTES):
            raise h11.RemoteProtocolError("too large a head")
        return super().maybe_extract_lines()


class _Connection(h11.Connection):
    """h11's connection, without bodies of a million small chunks."""

    _chunks = _bytes = 0

    def __init__(self) -> None:
        super().__init__(h11.SERVER, _HEAD_BYTES)
        self._receive_buffer = _Received()

    def next_event(self) -> Any:
        """Return the next event; raises RemoteProtocolError for what cannot be read, and for chunks of a few bytes."""
        event = super().next_event()
        if isinstance(event, h11.Request):
            self._chunks = self._bytes = 0
        elif isinstance(event, h11.Data):
            self._chunks += event.chunk_end
            self._bytes += len(event.data)
            if self._chunks > _FEW_CHUNKS and self._bytes < self._chunks * _CHUNK_BYTES:
                raise h11.RemoteProtocolError("too many small chunks")
        return event


class Protocol(H11Protocol):
    """uvicorn's protocol with times for the head of a request and for taking an answer."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        head_s: float,
        take_s: float,
        address: str,
        turns: Turns,
        untaken: Pool,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._address, self._turns, self._site = address, turns, self.app
        self._untaken, self._left = untaken, 0
        self._turn: asyncio.Future[None] | None = None
        self.app = self._in_turn
        self._head_s, self._take_s = head_s, take_s
        self.gone = asyncio.Event()
        self._head: asyncio.TimerHandle | None = None
        self._taking: asyncio.TimerHandle | None = None
        self.conn = _Connection()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a request."""
        super().connection_made(transport)
        name = _name(transport.get_extra_info("ssl_object"))
        self.app_state = {**self.app_state, "certificate": name, "turn": self._next_turn}
        self._await_head()

    def data_received(self, data: bytes) -> None:
        """Take bytes; those of a head must be whole in time."""
        super().data_received(data)
        if self._is_serving():
            self._forget_head()
        elif self._head is None:
            self._await_head()

    def on_response_complete(self) -> None:
        """Give the caller a time to take an answer that is still on its way, the last one."""
        super().on_response_complete()
        if self._taking is not None:
            # Whatever came before has been taken, but for some KB: the next would not have been written.
            self._taking.cancel()
        left = self.transport.get_write_buffer_size()
        if left and not self._untaken.has_room(left - self._left, self._address):
            self.transport.abort()
            return
        self._count(left)
        if left:
            self._taking = self.loop.call_later(self._take_s, self._see_taken)

    def resume_writing(self) -> None:
        """Go on: the caller has taken what was there, but for some KB."""
        super().resume_writing()
        self._count(0)

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP; hang up where an answer has been given already, or part of one."""
        if self.conn.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
            super().send_400_response(msg)
        else:
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing more."""
        self.gone.set()
        self._count(0)
        if self._turn is not None and not self._turn.done():
            self._turn.set_result(None)
        self._forget_head()
        if self._taking is not None:
            self._taking.cancel()
        super().connection_lost(exc)

    async def _in_turn(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request when it is its caller's turn, unless the caller has gone by then."""
        await self._next_turn()
        if not self.gone.is_set():
            await self._site(scope, receive, send)

    def _next_turn(self) -> asyncio.Future[None]:
        token = next((value for name, value in self.headers if name == b"authorization"), b"")
        # Callers behind one proxy have one address; whoever makes tokens up only divides its own part.
        self._turn = self._turns.queue((self._address, token.decode("latin-1")))
        return self._turn

    def _count(self, left: int) -> None:
        self._untaken.move(left - self._left, Caller(self._address))
        self._left = left

    def _is_serving(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _await_head(self) -> None:
        self._head = self.loop.call_later(self._head_s, self._hang_up)

    def _forget_head(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None

    def _see_taken(self) -> None:
        if self.transport.get_write_buffer_size():
            self.transport.abort()

    def _hang_up(self) -> None:
        self._head = None
        if not self._is_serving():
            self.transport.abort()


def _name(connection: ssl.SSLObject | None) -> str:
    """The common name of a client's certificate; empty without one."""
    found = connection.getpeercert() if connection is not None else None
    subject: Any = (found or {}).get("subject", ())
    return next((str(value) for part in subject for key, value in part if key == "commonName"), "")
