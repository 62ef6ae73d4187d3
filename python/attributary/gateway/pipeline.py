"""One engine with its threads: a query goes in on the event loop, its answer comes back as a future.

pictures:   prepare threads (decode, resize, tokenise) -> encode lane (encode, search, re-score)
embeddings: checked on the loop, long filters not      -> search lane (search, re-score)
Two lanes, because half a millisecond of search must not queue behind a batch of pictures.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine
from functools import partial
from time import perf_counter
from typing import Any, Protocol, cast

from attributary.attribution.engine import Engine
from attributary.attribution.prepare import Preparer
from attributary.attribution.types import Attribution, Filter, Options, Query
from attributary.errors import DeadlineError

from .batching import Batcher, Job, Observer, fail
from .config import GatewayConfig
from .errors import presentable
from .fairness import FairPool
from .remote import RemoteEngine, RemoteLane, State

LANES = ("encode", "search")
# Looking up more names than this would hold the event loop up.
_AT_ONCE_NAMES = 64


class Lane(Protocol):
    """A queue of prepared queries with an engine at its end."""

    def __len__(self) -> int: ...

    def put(self, job: Job) -> None:
        """Queue a query; callable from any thread. The answer or error goes to its future."""
        ...

    def close(self) -> None:
        """Finish what is queued."""
        ...


class Pipeline:
    """An engine being served. Create and use it on the event loop that serves it.

    `engine` computes in this process (`Engine`) or elsewhere (`RemoteEngine`); `state` says if the latter is there.
    """

    def __init__(
        self, engine: Preparer, config: GatewayConfig, observer: Observer, state: State | None = None
    ) -> None:
        self.engine = engine
        self.bundle_id = engine.bundle.manifest.bundle_id
        self.bundle_version = engine.bundle.manifest.version
        self._loop = asyncio.get_running_loop()
        self._observer = observer
        self._pool = FairPool(config.prepare_threads, "prepare")
        self._lanes = {lane: self._lane(lane, config, state) for lane in LANES}
        self._calls = 0
        self._left = asyncio.Event()
        self._left.set()

    def submit(
        self, query: Query, options: Options, field: str, deadline: float, arrived: float
    ) -> asyncio.Future[Attribution]:
        """Start one query; cancel the future to give it up.

        `deadline` is on the monotonic clock, `arrived` on perf_counter, both in seconds. Raises
        InvalidArgumentError for a wrong embedding; a wrong picture fails the future.
        """
        job = Job(self._loop.create_future(), deadline, arrived)
        if query.embedding is not None and _names(options.filter) <= _AT_ONCE_NAMES:
            job.prepared = self.engine.prepare(query, options, field)
            self._lanes["search"].put(job)
        else:
            self._pool.submit(job.path, partial(self._prepare, job, query, options, field))
        return job.future

    def queued(self, lane: str) -> int:
        """How many queries wait in a lane."""
        return len(self._lanes[lane])

    def enter(self) -> None:
        """Count a call in: the engine stays open until it has left."""
        self._calls += 1
        self._left.clear()

    def leave(self) -> None:
        """Count a call out."""
        self._calls -= 1
        if self._calls == 0:
            self._left.set()

    async def close(self) -> None:
        """Wait for the calls inside, then end the threads."""
        await self._left.wait()
        await asyncio.to_thread(self._join)

    def _lane(self, lane: str, config: GatewayConfig, state: State | None) -> Lane:
        pictures = lane == "encode"
        most = config.max_encode_batch if pictures else config.max_batch
        if isinstance(self.engine, RemoteEngine):
            return RemoteLane(
                lane,
                self.engine,
                self._loop,
                self._observer,
                state or State(),
                max_batch=most,
                inflight=config.remote_inflight,
                timeout_s=config.remote_timeout_s,
            )
        local = cast(Engine, self.engine)
        return Batcher(
            lane,
            local.run,
            self._loop,
            self._observer,
            max_batch=most,
            max_delay_s=config.max_delay_ms / 1e3,
            workers=(config.encode_workers or _cores()) if pictures else config.search_workers,
        )

    def _join(self) -> None:
        self._pool.shutdown()
        for lane in self._lanes.values():
            lane.close()

    def _prepare(self, job: Job, query: Query, options: Options, field: str) -> None:
        reason = job.dead()
        if reason is not None:
            self._observer.dropped(reason)
            if reason == "expired":
                fail(self._loop, job, DeadlineError("the deadline passed before the query was read"))
            return
        try:
            job.prepared = self.engine.prepare(query, options, field)
        except Exception as error:
            fail(self._loop, job, presentable(error, "prepare"))
        else:
            self._lanes["encode" if job.prepared.embedding is None else "search"].put(job)


class PipelineHolder:
    """The pipeline that new calls get: replaced by one pointer flip, the old one drained behind it."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.current = pipeline

    def swap(self, pipeline: Pipeline) -> Coroutine[Any, Any, None]:
        """Serve `pipeline` from now on; await what is returned to drain and close the one before."""
        before, self.current = self.current, pipeline
        return before.close()


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _names(filter_: Filter) -> int:
    return (
        len(filter_.include_creators)
        + len(filter_.exclude_creators)
        + len(filter_.include_licences)
        + len(filter_.exclude_licences)
    )


def milliseconds_since(started: float) -> float:
    """Milliseconds since a perf_counter reading."""
    return (perf_counter() - started) * 1e3
