"""Turns on the event loop: of connections and requests that wait to begin, and pieces of large bodies, one at a time.

What has begun takes some turns of the loop, and every turn takes as long as all that has begun. So a thousand requests
that begin together would keep another's waiting for seconds.
"""

from __future__ import annotations

import asyncio

from ..fairness import FairQueue, Path


class Turns:
    """Lets one go on in each turn of the event loop, callers by turns. Used from the event loop only."""

    def __init__(self) -> None:
        self._waiting: FairQueue[asyncio.Future[None]] = FairQueue()

    def queue(self, path: Path) -> asyncio.Future[None]:
        """Queue for whoever `path` names; the future is done when it may go on. What is done before is left out."""
        loop = asyncio.get_running_loop()
        if not self._waiting:
            loop.call_soon(self._next)
        turn = loop.create_future()
        self._waiting.put(path, turn)
        return turn

    def _next(self) -> None:
        while self._waiting:
            turn = self._waiting.pop()
            if not turn.done():
                turn.set_result(None)
                break
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._next)
