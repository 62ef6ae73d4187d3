"""One permit a query, taken at the door and given back at the end; nobody queues for one but a stream."""

from __future__ import annotations

import asyncio
from collections import deque

from attributary.errors import OverloadedError, UnavailableError


class Admission:
    """Counts queries and bytes inside the server. Used from the event loop only, so it needs no lock."""

    def __init__(self, permits: int, max_bytes: int) -> None:
        self.permits = permits
        self.in_use = 0
        self.bytes_in_use = 0
        self._max_bytes = max_bytes
        self._closed = False
        self._waiting: deque[tuple[asyncio.Future[None], int]] = deque()
        self._idle = asyncio.Event()
        self._idle.set()

    def take(self, queries: int, size: int) -> None:
        """Admit `queries` queries in a message of `size` bytes at once; raises what `check` raises."""
        self.check(queries, size)
        self._admit(queries, size)

    def check(self, queries: int, size: int) -> None:
        """Say whether `take` would admit them.

        Raises OverloadedError if a permit or the bytes are short, UnavailableError if the server is draining.
        """
        if self._closed:
            raise UnavailableError("the server is draining; ask another one")
        if self.in_use + queries > self.permits:
            raise OverloadedError(f"all {self.permits} permits are taken ({queries} asked for)")
        if not self._has_room(size):
            raise OverloadedError(f"requests inside the server would pass {self._max_bytes} bytes")

    async def wait(self, size: int) -> None:
        """Admit one query of a stream, waiting for a permit: back-pressure instead of an error."""
        if self._closed:
            raise UnavailableError("the server is draining; ask another one")
        if not self._waiting and self.in_use < self.permits and self._has_room(size):
            self._admit(1, size)
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append((turn, size))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self.release(1, size)
            raise

    def release(self, queries: int, size: int) -> None:
        """Give permits and bytes back, and let waiting streams in."""
        self.in_use -= queries
        self.bytes_in_use -= size
        while self._waiting:
            turn, wanted = self._waiting[0]
            if not turn.done():
                if self.in_use >= self.permits or not self._has_room(wanted):
                    break
                self._admit(1, wanted)
                turn.set_result(None)
            self._waiting.popleft()
        if self.in_use == 0:
            self._idle.set()

    def close(self) -> None:
        """Admit nobody any more."""
        self._closed = True
        for turn, _ in self._waiting:
            if not turn.done():
                turn.set_exception(UnavailableError("the server is draining; ask another one"))
        self._waiting.clear()

    async def idle(self) -> None:
        """Wait until nobody is inside."""
        await self._idle.wait()

    def _has_room(self, size: int) -> bool:
        # A lone message always fits: its own size is bounded by the server's message limit.
        return self.bytes_in_use == 0 or self.bytes_in_use + size <= self._max_bytes

    def _admit(self, queries: int, size: int) -> None:
        self.in_use += queries
        self.bytes_in_use += size
        if queries:
            self._idle.clear()
