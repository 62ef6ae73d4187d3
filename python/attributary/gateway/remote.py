"""Serving an engine that is on the network: batches go out as they form, health and bundle follow what is there."""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any, Protocol, runtime_checkable

import numpy as np
import structlog
from numpy.typing import NDArray

from attributary.attribution.prepare import Preparer
from attributary.attribution.types import Attribution, Prepared
from attributary.errors import (
    BundleError,
    DeadlineError,
    OverloadedError,
    PreconditionError,
    UnavailableError,
)

from .batching import Job, Outcome, deliver, living, started
from .config import GatewayConfig
from .errors import of_engine
from .fairness import FairQueue
from .metrics import Metrics
from .reload import stamp

log = structlog.get_logger(__name__)

_MANIFEST = "manifest.json"
_AWAY = "the engine behind this server is away; try again soon"
# How long a bundle that could not be followed is left alone while nothing about it changes: reading it again means
# hashing all of its files.
_REFUSED_S = 60.0
# A caller's own deadline ends its call by itself; the request behind it is allowed to end just after.
_SLACK_S = 0.05


@runtime_checkable
class RemoteEngine(Protocol):
    """What the gateway needs of an engine on the network, beside what every `Preparer` has."""

    async def infer(self, batch: Sequence[Prepared], timeout_s: float) -> list[Attribution]:
        """Answer prepared queries, all pictures or all embeddings, in their order."""
        ...

    async def embed_batch(self, batch: Sequence[Prepared], timeout_s: float) -> NDArray[np.float32]:
        """Return the unit vectors of prepared pictures, float32 [B, D]."""
        ...

    async def is_ready(self, timeout_s: float) -> bool:
        """Say whether the engine can answer for its bundle; raises UnavailableError while it is away."""
        ...

    async def verify(self) -> float:
        """Ask the golden queries; raises BundleError if the engine is not what the bundle says."""
        ...

    async def times(self, timeout_s: float) -> dict[str, dict[str, float]]:
        """Return the engine's own mean milliseconds since the last call: part -> phase -> milliseconds."""
        ...


class Link(Protocol):
    """Where remote engines come from."""

    def open(self, directory: Path | str) -> Preparer:
        """Open a bundle for an engine that is a `RemoteEngine`; blocks. Raises BundleError."""
        ...

    async def served(self, timeout_s: float) -> tuple[str, Path]:
        """Return (id, directory) of the bundle that is served there.

        Raises UnavailableError, and PreconditionError while several engines do not agree.
        """
        ...

    async def close(self) -> None:
        """End the connection."""
        ...


class State:
    """Whether the engine is there. Shared by the queues, which ask and may be first to see it go, and the watch."""

    def __init__(self, *, watched: bool = True) -> None:
        # Nobody looks after an engine that is not watched: each request finds out for itself.
        self._watched = watched
        self.up = not watched
        self.changed = asyncio.Event()

    def lost(self) -> None:
        """A request found nobody: fail the next ones at once, and look again now."""
        if self._watched:
            self.up = False
            self.changed.set()


class RemoteQueue:
    """A queue in front of an engine on the network: no threads, a bounded number of batches under way.

    With nothing under way a query goes at once; while `inflight` batches are, those that come wait and go together.
    A batch whose callers have all left is cancelled.
    """

    def __init__(
        self,
        name: str,
        engine: RemoteEngine,
        loop: asyncio.AbstractEventLoop,
        observer: Metrics,
        state: State,
        *,
        max_batch: int,
        inflight: int,
        timeout_s: float,
        embeds: bool = False,
    ) -> None:
        self._embeds = embeds
        self._name, self._engine, self._loop, self._observer = name, engine, loop, observer
        self._state = state
        self._max_batch, self._inflight, self._timeout_s = max_batch, inflight, timeout_s
        self._thread = threading.get_ident()
        self._queue: FairQueue[Job] = FairQueue()
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._queue)

    def put(self, job: Job) -> None:
        """Queue a prepared query; callable from any thread."""
        if threading.get_ident() == self._thread:
            self.put_here(job)
        else:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self.put_here, job)

    def put_here(self, job: Job) -> None:
        """As `put`, on the event loop."""
        if not self._state.up:
            deliver([(job, UnavailableError(_AWAY))])
            return
        self._queue.put(job.path, job)
        self._pump()

    def detach(self) -> None:
        """Go on without the watch, which looks after another engine now."""
        self._state = State(watched=False)

    def close(self) -> None:
        """Nothing to join: a pipeline closes when its last call has left, and batches belong to calls."""

    def _pump(self) -> None:
        while self._queue and len(self._tasks) < self._inflight:
            size = min(self._max_batch, len(self._queue))
            batch = living([self._queue.pop() for _ in range(size)], self._observer, deliver)
            if not batch:
                continue
            task = self._loop.create_task(self._send(batch))
            self._tasks.add(task)
            task.add_done_callback(self._sent)

    def _sent(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._pump()

    async def _send(self, batch: list[Job]) -> None:
        self._observer.batch(self._name, len(batch))
        task = asyncio.current_task()
        left = len(batch)

        def settled(_: asyncio.Future[Any]) -> None:
            nonlocal left
            left -= 1
            if left == 0 and task is not None:
                # Everybody has gone, or has been answered and this is about to end.
                task.cancel()

        for job in batch:
            job.future.add_done_callback(settled)
        with contextlib.suppress(asyncio.CancelledError):
            outcomes = await self._outcomes(batch)
            for job in batch:
                job.future.remove_done_callback(settled)
            deliver(outcomes)

    async def _ask(self, batch: list[Prepared], timeout_s: float) -> list[Any]:
        if not self._embeds:
            return list(await self._engine.infer(batch, timeout_s))
        return list(zip(batch, await self._engine.embed_batch(batch, timeout_s), strict=True))

    async def _outcomes(self, batch: list[Job]) -> list[tuple[Job, Outcome]]:
        prepared = [started(job) for job in batch]
        remaining = max(job.deadline for job in batch) - monotonic()
        try:
            answers = await self._ask(prepared, min(self._timeout_s, max(0.0, remaining) + _SLACK_S))
            if len(answers) != len(batch):
                raise RuntimeError(f"the engine gave {len(answers)} answers to {len(batch)} queries")
            return list(zip(batch, answers, strict=True))
        except UnavailableError as error:
            # The reason names machines of the inside: it is for the log.
            if self._state.up:
                log.warning("the engine was lost", queue=self._name, reason=str(error))
            self._state.lost()
            return [(job, UnavailableError(_AWAY)) for job in batch]
        except OverloadedError:
            return [(job, OverloadedError("the engine behind this server is full")) for job in batch]
        except DeadlineError as error:
            # Those whose own deadline has not passed were let down by the engine.
            late = UnavailableError(f"the engine did not answer within {self._timeout_s:g} s")
            own = of_engine(error, self._name)
            return [(job, own if monotonic() >= job.deadline else late) for job in batch]
        except Exception as error:
            if len(batch) == 1:
                return [(batch[0], of_engine(error, self._name))]
            # One of them makes the batch fail: each is asked alone.
            log.warning("a batch failed; its members are tried one by one", queue=self._name, size=len(batch))
            left = living(batch, self._observer, deliver)
            return [outcome for job in left for outcome in await self._outcomes([job])]


@dataclass(slots=True)
class _Found:
    """The bundle that the engine serves and this gateway does not, yet."""

    # Its id, its directory, and the manifest there, which is written last.
    key: tuple[str, Path, tuple[int, int, int] | None]
    engine: Preparer | None = None  # once it is open
    again: float = 0.0  # on the monotonic clock, when to look at it again


class Watch:
    """Looks after the engine on the network: is it there, is it sound, which bundle does it serve, how busy is it.

    `turn` says whether the gateway is healthy; `swap` serves another bundle; `report` publishes times.
    """

    def __init__(
        self,
        link: Link,
        state: State,
        config: GatewayConfig,
        current: Callable[[], Preparer],
        swap: Callable[[Preparer], Awaitable[None]],
        *,
        turn: Callable[[bool], Awaitable[None]] | None = None,
        report: Callable[[dict[str, dict[str, float]]], None] = lambda times: None,
    ) -> None:
        self._link, self._state, self._config = link, state, config
        self._current, self._turn, self._swap, self._report = current, turn, swap, report
        self._sound: Preparer | None = None
        self._was_up = False
        self._refused = ""
        self._found: _Found | None = None
        self._swaps: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Look again and again, sooner when a request has found nobody."""
        while True:
            # Away, it is looked for more often: callers are being refused.
            most = math.inf if self._state.up else 0.2
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._state.changed.wait(), min(most, self._config.remote_poll_s))
            self._state.changed.clear()
            await self.look()

    async def look(self) -> None:
        """Look once, and act on it. Raises nothing that an engine can cause."""
        if not self._state.up:
            # Whoever comes back must prove itself again.
            self._sound = None
        up = False
        try:
            await self._examine()
            up = True
        except (UnavailableError, OverloadedError, DeadlineError) as error:
            self._say_once("the engine is away", str(error))
        except BundleError as error:
            self._say_once("the engine is not what its bundle says", str(error))
        except Exception:
            log.exception("looking after the engine failed")
        self._state.up = up
        # Compared with what was said last, not with the state: a queue may have seen the engine go first.
        if up != self._was_up:
            self._was_up = up
            log.info("the engine is there" if up else "the engine is gone")
            if self._turn is not None:
                await self._turn(up)
        if up:
            self._refused = ""

    async def _examine(self) -> None:
        timeout = self._config.remote_timeout_s
        if self._config.remote_follow:
            await self._follow(timeout)
        engine = self._current()
        assert isinstance(engine, RemoteEngine)
        if not await engine.is_ready(timeout):
            raise UnavailableError("it does not have the bundle's models ready")
        if self._sound is not engine:
            cosine = await engine.verify()
            self._sound = engine
            log.info("golden queries hold", cosine=round(cosine, 5))
        self._report(await engine.times(timeout))

    async def _follow(self, timeout: float) -> None:
        try:
            served, directory = await self._link.served(timeout)
        except PreconditionError as error:
            self._say_once("nothing to follow, yet", str(error))
            return
        if served == self._current().bundle.manifest.bundle_id:
            self._found = None
            return
        key = (served, directory, await asyncio.to_thread(stamp, directory / _MANIFEST))
        if self._found is None or self._found.key != key:
            self._found = _Found(key)
        found = self._found
        if monotonic() < found.again:
            return
        try:
            if found.engine is None:
                found.engine = await self._open(served, directory)
            engine = found.engine
            assert isinstance(engine, RemoteEngine)
            if not await engine.is_ready(timeout):
                return
            await engine.verify()
        except (BundleError, PreconditionError) as error:
            # The bundle before goes on as long as its models are there.
            self._say_once("the bundle that is served now cannot be followed", str(error))
            found.engine, found.again = None, monotonic() + _REFUSED_S
            return
        self._found, self._sound = None, engine
        log.info("following", bundle_id=served)
        # Calls inside end with the bundle that they began with; nobody waits for them here.
        task = asyncio.ensure_future(self._swap(engine))
        self._swaps.add(task)
        task.add_done_callback(self._swaps.discard)

    async def _open(self, served: str, directory: Path) -> Preparer:
        engine = await asyncio.to_thread(self._link.open, directory)
        found = engine.bundle.manifest.bundle_id
        if found != served:
            raise BundleError(_MANIFEST, f"{directory} holds bundle {found}, the engine serves {served}")
        return engine

    def _say_once(self, event: str, reason: str) -> None:
        if reason != self._refused:
            self._refused = reason
            log.warning(event, reason=reason)
