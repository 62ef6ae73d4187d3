"""The bundles of a server: aliases that stay, the engines behind them, and replaced ones that still answer.

A request names an alias or a bundle's id. A bundle that no alias leads to any more answers those who name its id for
a time, then calls inside end and it goes. Everything here runs on the event loop and never waits between finding a
bundle and counting a call into it, so a call meets one bundle from beginning to end.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

import structlog

from attributary.attribution.prepare import Preparer
from attributary.attribution.snapshot import Snapshot
from attributary.delta.inherit import hold, inherit_deletions
from attributary.delta.store import Store
from attributary.errors import NotFoundError, PreconditionError

from .config import DEFAULT_ALIAS, check_alias
from .pipeline import Pipeline

log = structlog.get_logger(__name__)


@dataclass(slots=True, eq=False)
class Served:
    """A bundle in the registry."""

    pipeline: Pipeline
    store: Store | None
    # On the monotonic clock: when a draining bundle goes; infinity for one that serves.
    until: float = math.inf
    successor: Served | None = None  # what took its place, if something did
    # The last successor's, whose deletions hold here, and this one.
    inherited: tuple[Snapshot, Snapshot] | None = None
    go: asyncio.Event = field(default_factory=asyncio.Event)  # a draining bundle that is set goes at once
    leaving: asyncio.Task[None] | None = None

    @property
    def bundle_id(self) -> str:
        """The bundle's id."""
        return self.pipeline.bundle_id

    @property
    def draining(self) -> bool:
        """Whether it answers only those who name its id, and not for long."""
        return self.until < math.inf


class Registry:
    """Aliases and bundles. `start` makes the pipeline of an engine; `changed` is told whenever an alias moves."""

    def __init__(
        self,
        start: Callable[[Preparer], Pipeline],
        default: str = DEFAULT_ALIAS,
        *,
        pinned_s: float = 0.0,
        max_draining: int = 4,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        check_alias(default)
        self.default = default
        self._start, self._changed = start, changed
        self._pinned_s, self._max_draining = pinned_s, max_draining
        self._aliases: dict[str, Served] = {}
        self._bundles: dict[str, Served] = {}
        self._leaving: set[asyncio.Task[None]] = set()
        # Bundles that are being closed, by their directories.
        self._ending: dict[asyncio.Future[None], Path] = {}
        # Deletions under way, by what they change.
        self._deleting: dict[asyncio.Future[None], Store] = {}
        self._closing = False

    @property
    def current(self) -> Pipeline:
        """What a request that names nothing gets."""
        return self._aliases[self.default].pipeline

    @property
    def bundles(self) -> list[Served]:
        """Every bundle that answers: those that serve, then those that drain, the first to go first."""
        # Copied at once: the page of metrics asks from threads of its own.
        found = list(self._bundles.values())
        return sorted(found, key=lambda served: (served.draining, served.until))

    def aliases_of(self, served: Served) -> list[str]:
        """Aliases that lead to a bundle, sorted."""
        # Copied as well.
        return sorted(alias for alias, found in list(self._aliases.items()) if found is served)

    def behind(self, alias: str) -> Served | None:
        """Return what an alias leads to, None for one that there is not."""
        return self._aliases.get(alias)

    def find(self, name: str) -> Served:
        """Return what an alias or a bundle's id leads to, the default for ""; raises NotFoundError."""
        served = self._aliases.get(name or self.default) or self._bundles.get(name)
        if served is None or (served.draining and not self._is_current(served)):
            raise NotFoundError("bundle", name)
        return served

    def check_newer(self, engine: Preparer) -> None:
        """Raise PreconditionError if the same bundle is served with changes that this copy of it has not seen."""
        bundle_id, revision = engine.bundle.manifest.bundle_id, engine.snapshot.revision
        for served in self.bundles:
            there = served.pipeline.engine
            if served.bundle_id == bundle_id and there.snapshot.revision > revision:
                raise PreconditionError(
                    "bundle",
                    f"{bundle_id} is served from {there.bundle.directory.name} at revision "
                    f"{there.snapshot.revision}; this copy of it is at {revision}, and what was changed since would be "
                    "undone",
                )

    @contextlib.contextmanager
    def use(self, name: str) -> Iterator[Pipeline]:
        """Find a bundle and keep it open for a call; raises NotFoundError."""
        pipeline = self.find(name).pipeline
        pipeline.enter()
        try:
            yield pipeline
        finally:
            pipeline.leave()

    @contextlib.contextmanager
    def deleting(self, store: Store) -> Iterator[None]:
        """Delete from a bundle: until that has ended, nothing takes over its deletions as if they were all."""
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._deleting[ended] = store
        try:
            yield
        finally:
            del self._deleting[ended]
            ended.set_result(None)

    def deletions(self, served: Served) -> list[asyncio.Future[None]]:
        """Deletions from a bundle that are under way: done when they have ended."""
        return [ended for ended, store in self._deleting.items() if store is served.store]

    def add(self, engine: Preparer, store: Store | None = None) -> Served:
        """Serve a bundle under its id; the same bundle, opened before, gives way with its aliases."""
        served = Served(self._start(engine), store)
        before = self._bundles.get(served.bundle_id)
        if before is not None and self._is_current(before):
            # What was deleted while another bundle was in its place is not on the disk.
            inherit_deletions(engine, before.pipeline.engine.snapshot, compacted=True)
        self._bundles[served.bundle_id] = served
        if before is not None:
            self._move(before, served, 0.0)
        return served

    def swap(
        self,
        alias: str,
        engine: Preparer,
        store: Store | None = None,
        *,
        pinned_s: float | None = None,
    ) -> asyncio.Future[None]:
        """Serve `engine` where `alias` leads, under every alias of the bundle before; returns at once.

        The bundle before answers those who name its id for `pinned_s` seconds. Await what is returned to see it gone.
        A new alias is made.
        """
        check_alias(alias)
        before = self._aliases.get(alias)
        served = self.add(engine, store)
        if before is None:
            self._aliases[alias] = served
            self._changed()
        elif before.bundle_id != served.bundle_id:
            self._move(before, served, pinned_s)
        return _gone(before)

    def replace(self, before: Preparer | Store, engine: Preparer) -> None:
        """Serve `engine` in the place of another one, or of what a store changes, if that still serves."""
        for found in list(self._bundles.values()):
            # Else it was unloaded meanwhile: the new bundle is on the disk, and nobody asks for it here.
            if before in (found.store, found.pipeline.engine) and not found.draining:
                # What was deleted in memory alone no compaction has seen; ids stay.
                hold(engine, found.pipeline.engine.snapshot.deleted)
                served = self.add(engine, found.store)
                if found.bundle_id != served.bundle_id:
                    self._move(found, served, None)
                return

    def set_alias(self, alias: str, name: str, *, pinned_s: float | None = None) -> Served | None:
        """Turn an alias to a bundle that is there; return the bundle before, None for a new alias.

        A bundle that drains is taken back into service. Raises InvalidArgumentError, NotFoundError.
        """
        check_alias(alias)
        served = self.find(name)
        before = self._aliases.get(alias)
        self._aliases[alias] = served
        self._revive(served)
        if before is not None and before is not served and not self.aliases_of(before):
            self._retire(before, served, pinned_s)
        self._changed()
        return before

    def keep(self, name: str) -> None:
        """Take a bundle that drains back into service, under its id; raises NotFoundError."""
        self._revive(self.find(name))

    def remove(self, name: str, *, pinned_s: float | None = None) -> Served:
        """Take a bundle out of service with its aliases; raises NotFoundError, PreconditionError for the default's."""
        served = self.find(name)
        aliases = self.aliases_of(served)
        if self.default in aliases:
            raise PreconditionError(
                "alias",
                f"{self.default} is the default and leads to this bundle; turn it to another one first",
            )
        for alias in aliases:
            del self._aliases[alias]
        self._retire(served, None, pinned_s)
        self._changed()
        return served

    async def released(self, directory: Path) -> None:
        """Wait until a bundle that was changed here, and answers nobody any more, has given its directory back."""
        while ending := [task for task, place in self._ending.items() if place == directory]:
            await asyncio.wait(ending)

    async def close(self) -> None:
        """End everything: draining bundles go at once, calls inside are waited for, stores are closed."""
        self._closing = True
        for served in list(self._bundles.values()):
            if not served.draining:
                self._retire(served, None, 0.0)
            served.go.set()
        await asyncio.gather(*self._leaving, return_exceptions=True)

    def _is_current(self, served: Served) -> bool:
        """Bring a draining bundle up to the deletions from the one in its place; False if nothing is left of it."""
        following, compacted = served, True
        while following.successor is not None:
            compacted &= compacted_from(following.successor.pipeline.engine) == following.bundle_id
            following = following.successor
        engine, successor = served.pipeline.engine, following.pipeline.engine.snapshot
        before, after = served.inherited or (None, None)
        # The second: a change that was under way when this bundle was replaced may have come since.
        if following is served or (before is successor and after is engine.snapshot):
            return True
        if inherit_deletions(engine, successor, compacted):
            served.inherited = successor, engine.snapshot
            return True
        del self._bundles[served.bundle_id]
        served.go.set()
        return False

    def _move(self, before: Served, served: Served, pinned_s: float | None) -> None:
        for alias in self.aliases_of(before):
            self._aliases[alias] = served
        if before.store is served.store:
            # It goes on with the new engine.
            before.store = None
        self._retire(before, served, pinned_s)
        self._changed()

    def _revive(self, served: Served) -> None:
        if served.draining and served.leaving is not None:
            served.leaving.cancel()
            served.until, served.successor, served.leaving = math.inf, None, None
            served.go.clear()

    def _retire(self, served: Served, successor: Served | None, pinned_s: float | None) -> None:
        wait = 0.0 if self._closing else self._pinned_s if pinned_s is None else pinned_s
        until = monotonic() + wait
        if served.leaving is not None:
            if until >= served.until:
                return
            served.leaving.cancel()
        else:
            for found in list(self._bundles.values()):
                # What this one knows of deletions, those before it must know: its successor may not name the items.
                if found.draining:
                    self._is_current(found)
            served.successor = successor
            served.pipeline.retire()
        served.until = until
        served.leaving = asyncio.get_running_loop().create_task(self._leave(served))
        self._leaving.add(served.leaving)
        served.leaving.add_done_callback(self._left)
        draining = [found for found in self.bundles if found.draining]
        for excess in draining[: max(0, len(draining) - self._max_draining)]:
            # Each holds memory: a burst of swaps must not add up.
            excess.go.set()

    async def _leave(self, served: Served) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(served.go.wait(), max(0.0, served.until - monotonic()))
        if served.leaving is not asyncio.current_task():
            # Taken back into service just as its time was over: `wait_for` passes such a cancellation over.
            return
        if self._bundles.get(served.bundle_id) is served:
            del self._bundles[served.bundle_id]
        ending = asyncio.ensure_future(self._end(served))
        if served.store is not None:
            self._ending[ending] = served.store.directory
            ending.add_done_callback(lambda task: self._ending.pop(task))
        await asyncio.shield(ending)

    async def _end(self, served: Served) -> None:
        await served.pipeline.close()
        if served.store is not None:
            await asyncio.to_thread(served.store.close)
        log.info("gone", bundle_id=served.bundle_id)

    def _left(self, task: asyncio.Task[None]) -> None:
        self._leaving.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a bundle could not be closed", exc_info=error)


def compacted_from(engine: Preparer) -> str | None:
    """Id of the bundle that one was compacted from, None for one that was built."""
    return engine.bundle.manifest.notes.get("compacted_from")


def _gone(served: Served | None) -> asyncio.Future[None]:
    """Done when a bundle has gone; giving up on it does not keep the bundle."""
    if served is None or served.leaving is None:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done
    return asyncio.shield(served.leaving)
