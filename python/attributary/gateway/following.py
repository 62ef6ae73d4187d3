"""Serving a bundle that another process changes: every engine here is kept at what its writer has acknowledged."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic
from typing import Final, TypeAlias

import structlog

from attributary.attribution.prepare import Preparer
from attributary.delta.follower import STATES, Follower, Status
from attributary.errors import AttributaryError

from .errors import presentable
from .metrics import Metrics

log = structlog.get_logger(__name__)

# The service's name in gRPC's health service; AttributionService itself goes on serving what it has.
HEALTH: Final = "attributary.delta"
# A follower that has not been able to read for so long says so in health.
LATE_S: Final = 2.0
# Opening a bundle again means hashing all of it.
_AGAIN_S: Final = 60.0
# More than bundles that are served.
_THREADS: Final = 64

Reopen: TypeAlias = Callable[[Path], Preparer]


class Following:
    """Looks at the journals of the engines that are served, and opens what a compaction has put in a bundle's place."""

    def __init__(
        self,
        engines: Callable[[], Sequence[Preparer]],
        flip: Callable[[Preparer, Preparer], None],
        say: Callable[[bool], None],
        metrics: Metrics,
        *,
        poll_s: float,
        reopen: Reopen | None,
    ) -> None:
        """`engines` are those to keep up; `flip` serves the second in the first one's place; `say` is told whether all
        follow. Without `reopen` compacted bundles come from elsewhere: Triton's are swapped there first.
        """
        self._engines, self._flip, self._say = engines, flip, say
        self._poll_s, self._reopen = poll_s, reopen
        self._followers: dict[int, Follower] = {}
        self._opening: dict[int, asyncio.Task[None]] = {}
        self._refused: dict[str, float] = {}  # id of a bundle that could not be opened -> when to try again
        self._was_following: bool | None = None
        self._running: asyncio.Task[None] | None = None
        self._looks: dict[int, asyncio.Task[None]] = {}  # one at a time of each engine
        # Their own: an opt-out waits for nobody's pictures, pages or bodies, and for no volume that does not answer.
        self._looking = ThreadPoolExecutor(_THREADS, "following")
        watch = metrics.watch
        watch(
            "attributary_delta_behind_seconds",
            "Since everything that the bundle's writer acknowledged was served here.",
            lambda: self.status.behind_s,
        )
        for state in STATES:
            watch(
                "attributary_delta_state",
                "1 for the state of the follower that is furthest behind.",
                lambda state=state: float(self.status.state == state),  # type: ignore[misc]
                state=state,
            )

    @property
    def status(self) -> Status:
        """Of the engine that is furthest behind."""
        found = [follower.status for follower in self._followers.values()]
        worst = max(found, key=lambda status: (STATES.index(status.state), status.behind_s), default=None)
        return worst or Status("following", 0, 0.0, "")

    async def start(self) -> None:
        """Look once, then again and again until `close`."""
        await self.look()
        self._running = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._poll_s)
            try:
                await self.look()
            except Exception:
                log.exception("following failed")

    async def look(self) -> None:
        """Look once at every journal, and act on it; one that does not answer within `LATE_S` is not waited for."""
        engines = {id(engine): engine for engine in self._engines()}
        self._followers = {
            key: self._followers.get(key) or Follower(engine) for key, engine in engines.items()
        }
        begun = {
            key: asyncio.create_task(self._look(key, follower))
            for key, follower in self._followers.items()
            if key not in self._looks
        }
        self._looks |= begun
        if begun:
            await asyncio.wait(begun.values(), timeout=LATE_S)
        following = self.status.behind_s <= LATE_S and self.status.state != "damaged"
        if following != self._was_following:
            self._was_following = following
            self._say(following)

    async def _look(self, key: int, follower: Follower) -> None:
        before = follower.status.state
        try:
            await asyncio.get_running_loop().run_in_executor(self._looking, follower.look)
        except Exception:
            # Told once: it is tried again at every look.
            if follower.status.state != before:
                log.exception("following failed")
        finally:
            self._looks.pop(key, None)
        if (now := follower.status).state != before:
            report = log.info if now.state == "following" else log.warning
            report("the bundle's changes", state=now.state, revision=now.revision, reason=now.reason)
        wanted = follower.successor
        due = key not in self._opening and monotonic() >= self._refused.get(wanted, 0.0)
        if wanted and due and self._reopen and follower is self._followers.get(key):
            self._opening[key] = asyncio.create_task(self._open(key, follower, self._reopen))

    async def close(self) -> None:
        """Look no more, and give up what is being opened."""
        tasks = [
            *self._opening.values(),
            *self._looks.values(),
            *([] if self._running is None else [self._running]),
        ]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._looking.shutdown(wait=False)

    async def _open(self, key: int, follower: Follower, reopen: Reopen) -> None:
        wanted = follower.successor
        try:
            engine = await asyncio.to_thread(reopen, follower.directory)
            # Changes of the time that this took, before a query sees it.
            await asyncio.to_thread(Follower(engine).look)
            self._flip(follower.engine, engine)
            log.info("following", bundle_id=engine.bundle.manifest.bundle_id)
        except Exception as error:
            shown = error if isinstance(error, AttributaryError) else presentable(error, "following")
            log.warning("the compacted bundle cannot be served", bundle_id=wanted, reason=str(shown))
            self._refused[wanted] = monotonic() + _AGAIN_S
        finally:
            self._opening.pop(key, None)
