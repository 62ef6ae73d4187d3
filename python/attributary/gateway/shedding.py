"""How long calls wait before the server takes them, and whom to refuse when that is too long.

gRPC queues calls until the event loop takes them, one after the other, and tells nobody how many there are. So the
server calls itself, through the same queue, and measures. While calls wait longer than the target, a growing part of
the new ones is refused, those first who send more than their part; a refusal costs a fraction of an answer, so the
queue gets shorter. It is the controller of PIE (Pan et al., 2013) without its derivative.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import secrets
from collections import Counter
from time import monotonic, perf_counter
from typing import Final

import grpc
from grpc import aio

from attributary.errors import OverloadedError

METHOD: Final = "/attributary.gateway/Probe"
# While calls come; else not at all.
_EVERY_S: Final = 0.05
_STEP: Final = 0.05
_PATIENCE_S: Final = 0.5
_FORGET: Final = 0.9
_FEW: Final = 64
_TIMEOUT_S: Final = 30.0
_OPTIONS: Final = (("grpc.use_local_subchannel_pool", 1),)


class Shedder:
    """Measures the wait and decides. Used from the event loop only."""

    def __init__(self, target_s: float) -> None:
        self.wait_s = 0.0
        self.refused_part = 0.0
        self.address = f"unix-abstract:attributary-{os.getpid()}-{secrets.token_hex(8)}"
        self._target = target_s
        self._recent: Counter[str] = Counter()
        self._total = 0.0
        self._since = monotonic()
        self._task: asyncio.Task[None] | None = None
        self._called = asyncio.Event()

    def admit(self, name: str) -> None:
        """Count a call of a caller; raises OverloadedError if it is to come back later."""
        self._recent[name] += 1
        self._total += 1
        self._called.set()
        if self._total < _FEW:
            # So few calls make no queue: the machine is busy with something else.
            return
        if self.refused_part and random.random() < self.refused_part * self._excess(name):
            raise OverloadedError("calls wait too long to be taken", retry_after_s=1.0)

    def note(self, wait_s: float) -> None:
        """Take a measurement into account."""
        now = monotonic()
        self.wait_s = wait_s
        if wait_s <= self._target:
            self._since = now
            self.refused_part = max(0.0, self.refused_part - 2 * _STEP)
        elif now - self._since > _PATIENCE_S:
            # Not at once: a machine that stumbles is not a queue that stands.
            self.refused_part = min(1.0, self.refused_part + _STEP)
        for name in list(self._recent):
            self._recent[name] = int(self._recent[name] * _FORGET)
            if not self._recent[name]:
                del self._recent[name]
        self._total = float(sum(self._recent.values()))

    def start(self) -> None:
        """Begin to measure; the server must be listening at `address`."""
        self._task = asyncio.create_task(self._measure())

    async def stop(self) -> None:
        """Measure no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def _excess(self, name: str) -> float:
        """How much more than its part a caller sends: 1 is exactly its part."""
        return self._recent[name] * len(self._recent) / max(1.0, self._total)

    async def _measure(self) -> None:
        async with aio.insecure_channel(self.address, options=_OPTIONS) as channel:
            probe: aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(METHOD)
            while True:
                if not self.refused_part:
                    self._called.clear()
                    await self._called.wait()
                    self._since = monotonic()
                started = perf_counter()
                call = asyncio.ensure_future(_ended(probe))
                try:
                    # A call that has not been taken yet says as much as one that has.
                    while not (await asyncio.wait({call}, timeout=_EVERY_S))[0]:
                        self.note(perf_counter() - started)
                    self.note(perf_counter() - started)
                finally:
                    call.cancel()
                await asyncio.sleep(_EVERY_S)


async def _ended(probe: aio.UnaryUnaryMultiCallable[bytes, bytes]) -> None:
    with contextlib.suppress(grpc.RpcError):
        await probe(b"", timeout=_TIMEOUT_S)
