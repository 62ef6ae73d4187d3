"""One permit a query, taken when it comes in and given back at the end; nobody queues for one but a stream.

Who is asked from is the current caller (`callers.py`). Three rules beside the number of permits:
- streams and batches leave a share of the permits to single calls;
- the last eighth, and as much of what streams and batches may have, goes only to callers who have less than their part
  of it, so that no caller, however many calls it sends, can shut another one out;
- bytes are shared by the same two rules.

What waits before that, in gRPC, is measured by `Shedder`. gRPC queues calls until the event loop takes them, one after
the other, and tells nobody how many there are. So the server calls itself, through the same queue. While calls wait
longer than the target, a growing part of the new ones is refused, those first who send more than their part; a refusal
costs a fraction of an answer, so the queue gets shorter. It is the controller of PIE (Pan et al., 2013) without its
derivative.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import secrets
from collections import Counter
from collections.abc import AsyncIterator
from time import monotonic, perf_counter
from typing import Final

import grpc
from grpc import aio

from attributary.errors import OverloadedError, UnavailableError

from .callers import Caller, current
from .fairness import FairQueue

_LAST = 8
# Less than this is not worth dividing.
_FEW_PERMITS, _FEW_BYTES = 16, 1 << 20

_DRAINING = "the server is draining; ask another one"
_KEPT = "the permits that are left are kept for other callers"

# The method by which the server calls itself.
PROBE: Final = "/attributary.gateway/Probe"
# While calls come; else not at all.
_EVERY_S: Final = 0.05
_STEP: Final = 0.05
_PATIENCE_S: Final = 0.5
_FORGET: Final = 0.9
_FEW: Final = 64
_TIMEOUT_S: Final = 30.0
_OPTIONS: Final = (("grpc.use_local_subchannel_pool", 1),)


class Pool:
    """Permits, bytes or streams: how many exist, and who has how many."""

    def __init__(self, most: int, few: int, kept_for_single: float) -> None:
        self.most = most
        self.used = 0
        self.bulk_used = 0
        self._bulk_most = most - int(most * kept_for_single)
        self._last = most // _LAST if most >= few else 0
        self._by_caller: Counter[str] = Counter()
        self._bulk_by_caller: Counter[str] = Counter()

    def bulk_may(self, amount: int, name: str) -> bool:
        """Whether a stream or a batch leaves enough to single calls and to others' bulk; a lone one always does."""
        left = self._bulk_most - self.bulk_used - amount
        if self.bulk_used == 0 or left >= self._last:
            return True
        return left >= 0 and self._bulk_by_caller[name] + amount <= _part(
            self._bulk_most, self._bulk_by_caller, name
        )

    def held(self, name: str) -> int:
        """How much a caller has."""
        return self._by_caller[name]

    def is_free(self, amount: int = 1) -> bool:
        """Whether anybody may have so much more."""
        return self.used + amount <= self.most - self._last

    def has_part(self, name: str, amount: int = 1) -> bool:
        """Whether so much more is within a caller's part of what is there."""
        part = _part(self.most, self._by_caller, name)
        return self.used + amount <= self.most and self._by_caller[name] + amount <= part

    def is_fair(self, amount: int, name: str) -> bool:
        """Whether a caller may have so much more."""
        if self.is_free(amount) or self.used == 0:
            return True
        return self._by_caller[name] + amount <= _part(self.most, self._by_caller, name)

    def has_room(self, amount: int, name: str) -> bool:
        """Whether a caller may have so much more, and there is as much; a lone one always may."""
        return self.used == 0 or (self.used + amount <= self.most and self.is_fair(amount, name))

    def move(self, amount: int, caller: Caller) -> None:
        """Take so much, or give it back if it is below 0."""
        self.used += amount
        _count(self._by_caller, caller.name, amount)
        if caller.bulk:
            self.bulk_used += amount
            _count(self._bulk_by_caller, caller.name, amount)


def _part(most: int, held: Counter[str], name: str) -> int:
    """What a caller may have of so many. One part more than there are callers: for the one who comes next."""
    return most // (len(held) + (name not in held) + 1)


def _count(held: Counter[str], name: str, amount: int) -> None:
    held[name] += amount
    if not held[name]:
        del held[name]


class Admission:
    """Counts queries and bytes inside the server. Used from the event loop only, so it needs no lock."""

    def __init__(self, permits: int, max_bytes: int, single_share: float = 0.25) -> None:
        self.permits = permits
        self._max_bytes = max_bytes
        self._queries = Pool(permits, _FEW_PERMITS, single_share)
        self._bytes = Pool(max_bytes, _FEW_BYTES, single_share)
        self.closed = False
        self._waiting: FairQueue[tuple[asyncio.Future[None], int, Caller]] = FairQueue()

    @property
    def in_use(self) -> int:
        """Permits that are taken."""
        return self._queries.used

    @property
    def bytes_in_use(self) -> int:
        """Bytes of admitted requests."""
        return self._bytes.used

    def take(self, queries: int, size: int) -> None:
        """Admit `queries` queries in a message of `size` bytes at once.

        Raises OverloadedError if a permit or the bytes are short, UnavailableError if the server is draining.
        """
        caller = current()
        self._check(queries, size, caller)
        self._admit(queries, size, caller)

    def widen(self, queries: int, size: int) -> None:
        """Turn the one permit of a call into those for `queries` queries of `size` bytes; raises what `take` raises.

        How many they are is known only once the message has been read. The one permit stays if they are refused.
        """
        caller = current()
        self._queries.move(-1, caller)
        try:
            self._check(queries, size, caller)
        except Exception:
            self._queries.move(1, caller)
            raise
        self._admit(queries, size, caller)

    def grow(self, size: int) -> None:
        """Count `size` bytes of a call that has its permit, which stays; raises what `take` raises."""
        caller = current()
        self._check(0, size, caller)
        self._bytes.move(size, caller)

    @contextlib.asynccontextmanager
    async def one(self, size: int) -> AsyncIterator[None]:
        """One query of `size` bytes, waited for, for as long as the context lasts."""
        await self.wait(size)
        try:
            yield
        finally:
            self.release(1, size)

    async def wait(self, size: int) -> None:
        """Admit one query of a stream, waiting for a permit: back-pressure instead of an error."""
        if self.closed:
            raise UnavailableError(_DRAINING)
        caller = current()
        if not self._waiting and not self._refusal(1, size, caller):
            self._admit(1, size, caller)
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.put(caller.path, (turn, size, caller))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self.release(1, size)
            raise

    def release(self, queries: int, size: int) -> None:
        """Give permits and bytes back, and let waiting streams in."""
        caller = current()
        self._queries.move(-queries, caller)
        self._bytes.move(-size, caller)
        while self._waiting:
            turn, wanted, waiting = self._waiting.peek()
            if not turn.done():
                if self._refusal(1, wanted, waiting):
                    break
                self._admit(1, wanted, waiting)
                turn.set_result(None)
            self._waiting.pop()

    def close(self) -> None:
        """Admit nobody any more."""
        self.closed = True
        while self._waiting:
            turn, _, _ = self._waiting.pop()
            if not turn.done():
                turn.set_exception(UnavailableError(_DRAINING))

    def _check(self, queries: int, size: int, caller: Caller) -> None:
        if self.closed:
            raise UnavailableError(_DRAINING)
        if why := self._refusal(queries, size, caller):
            raise OverloadedError(why)

    def _refusal(self, queries: int, size: int, caller: Caller) -> str:
        """Why queries (0: of a call that has its permit) and bytes may not come in; empty if they may."""
        permits, held = self._queries, self._bytes
        if permits.used + queries > self.permits:
            return f"all {self.permits} permits are taken ({queries} asked for)"
        if caller.bulk and queries and not permits.bulk_may(queries, caller.name):
            return "the permits that are left are kept for single calls and for other callers"
        # A lone message always fits: its own size is bounded by the server's message limit.
        if held.used and held.used + size > self._max_bytes:
            return f"requests inside the server would pass {self._max_bytes} bytes"
        if caller.bulk and not held.bulk_may(size, caller.name):
            return f"requests inside the server would pass {self._max_bytes} bytes"
        if not held.is_fair(size, caller.name) or (queries and not permits.is_fair(queries, caller.name)):
            return _KEPT
        return ""

    def _admit(self, queries: int, size: int, caller: Caller) -> None:
        self._queries.move(queries, caller)
        self._bytes.move(size, caller)


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
            # So few calls make no queue: if they wait, the machine is busy with something else.
            return
        if self.refused_part:
            # How much more than its part a caller sends: 1 is exactly its part.
            excess = self._recent[name] * len(self._recent) / self._total
            if random.random() < self.refused_part * excess:
                raise OverloadedError("calls wait too long to be taken", retry_after_s=1.0)

    def note(self, wait_s: float) -> None:
        """Take a measurement into account."""
        now = monotonic()
        self.wait_s = wait_s
        if wait_s <= self._target:
            self._since = now
            self.refused_part = max(0.0, self.refused_part - 2 * _STEP)
        elif now - self._since > _PATIENCE_S:
            # Not at once: a short pause of the machine is no queue.
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

    async def _measure(self) -> None:
        async with aio.insecure_channel(self.address, options=_OPTIONS) as channel:
            probe: aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(PROBE)
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
