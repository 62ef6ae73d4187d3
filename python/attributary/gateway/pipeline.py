"""One engine with its threads: a query goes in on the event loop, its answer comes back as a future.

pictures:   prepare threads (decode, resize, tokenise) -> batch queue `encode` (encode, search, re-score)
            costly ones first wait for a decoding process in threads of their own
embeddings: checked on the loop, long filters not      -> batch queue `search` (search, re-score)
embeddings wanted: prepare threads                     -> batch queue `embed` (encode)
Queues of their own, because half a millisecond of search must not queue behind a batch of pictures.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from time import perf_counter
from typing import TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from attributary.attribution.engine import Engine
from attributary.attribution.prepare import Preparer, ms_since
from attributary.attribution.types import Filter, Options, Prepared, Query
from attributary.errors import InvalidArgumentError, OverloadedError
from attributary.machine import cores
from attributary.pictures import CostlyPicture, allow
from attributary.v1 import attribution_pb2 as pb

from .batching import Batcher, Job, living, post
from .callers import current
from .config import GatewayConfig
from .errors import presentable
from .fairness import FairPool, Path, caller_of
from .metrics import QUEUES, Metrics
from .remote import RemoteEngine, RemoteQueue, State
from .reply import Answer, Replies

T = TypeVar("T")

_ANY = Options()
# Looking up more names than this would hold the event loop up.
_AT_ONCE_NAMES = 64
# CPU seconds of decoding that one caller's costly pictures may have waiting: as much as a full batch of pictures of 16
# megapixels. Whoever sends more is refused for it at once, and nobody else is.
COSTLY_BACKLOG_S = 30.0
_MOST_BY_DEFAULT = 2


class Pipeline:
    """An engine being served. Create and use it on the event loop that serves it.

    `engine` computes in this process (`Engine`) or elsewhere (`RemoteEngine`); `state` says if the latter is there.
    `costly` is where costly pictures wait, one for all that a server serves. `calls` is how many are inside.
    """

    def __init__(
        self,
        engine: Preparer,
        config: GatewayConfig,
        observer: Metrics,
        costly: Costly,
        state: State | None = None,
    ) -> None:
        self.engine = engine
        self.bundle_id = engine.bundle.manifest.bundle_id
        self.replies = Replies(self.bundle_id, engine.bundle.manifest.version)
        # A snapshot, and what DescribeBundle says of it: milliseconds of work, which nobody needs a permit for.
        self.described: tuple[object, pb.DescribeBundleResponse | None] = (None, None)
        self._loop = asyncio.get_running_loop()
        self._observer = observer
        threads = config.prepare_threads or cores()
        self._pool = FairPool(threads + 1, "prepare", each=threads)
        self._costly = costly
        self._queues = {name: self._queue(name, config, state) for name in QUEUES}
        self.calls = 0
        self._left = asyncio.Event()
        self._left.set()

    def submit(
        self, query: Query, options: Options, field: str, deadline: float, arrived: float
    ) -> asyncio.Future[Answer]:
        """Start one query; cancel the future to give it up.

        `deadline` is on the monotonic clock, `arrived` on perf_counter, both in seconds. Raises
        InvalidArgumentError for a wrong embedding; a wrong picture fails the future.
        """
        job = Job(self._loop.create_future(), deadline, arrived)
        if query.embedding is not None and _names(options.filter) <= _AT_ONCE_NAMES:
            job.prepared = self.engine.prepare(query, options, field)
            if options.filter or current().bulk:
                # A filter may have to search several times; streams and batches yield to single calls.
                self._queues["search"].put(job)
            else:
                self._queues["search"].put_here(job)
        else:
            queue = "encode" if query.embedding is None else "search"
            self._pool.submit(job.path, partial(self._prepare, queue, job, query, options, field))
        return job.future

    def embed(
        self, query: Query, field: str, deadline: float, arrived: float
    ) -> asyncio.Future[tuple[Prepared, NDArray[np.float32]]]:
        """Start making the embedding of one picture, float32 [D], unit length; as `submit`."""
        if query.embedding is not None:
            raise InvalidArgumentError(f"{field}.embedding", "is an embedding already; give image or pixels")
        job = Job(self._loop.create_future(), deadline, arrived)
        self._pool.submit(job.path, partial(self._prepare, "embed", job, query, _ANY, field))
        return job.future

    async def in_turn(self, work: Callable[[], T]) -> T:
        """Do work of the current caller's in the threads that read pictures, when it is its turn."""
        return await done_by(self._pool, work)

    def queued(self, queue: str) -> int:
        """How many queries wait in a batch queue."""
        return len(self._queues[queue])

    def enter(self) -> None:
        """Count a call in: the engine stays open until it has left."""
        self.calls += 1
        self._left.clear()

    def retire(self) -> None:
        """The bundle has been replaced: whether its engine is away says nothing of the one that serves."""
        for queue in self._queues.values():
            if isinstance(queue, RemoteQueue):
                queue.detach()

    def leave(self) -> None:
        """Count a call out."""
        self.calls -= 1
        if self.calls == 0:
            self._left.set()

    async def close(self) -> None:
        """Wait for the calls inside, then end the threads."""
        await self._left.wait()
        await asyncio.to_thread(self._join)

    def _queue(self, name: str, config: GatewayConfig, state: State | None) -> Batcher | RemoteQueue:
        most = config.max_batch if name == "search" else config.max_encode_batch
        if isinstance(self.engine, RemoteEngine):
            return RemoteQueue(
                name,
                self.engine,
                self._loop,
                self._observer,
                state or State(watched=False),
                max_batch=most,
                inflight=config.remote_inflight,
                timeout_s=config.remote_timeout_s,
                embeds=name == "embed",
            )
        local = cast(Engine, self.engine)
        return Batcher(
            name,
            partial(_embed, local) if name == "embed" else local.scored,
            self._loop,
            self._observer,
            max_batch=most,
            max_delay_s=config.max_delay_ms / 1e3,
            here=name == "search",
            workers=config.search_workers if name == "search" else config.encode_workers or cores(),
        )

    def _join(self) -> None:
        self._pool.close()
        for queue in self._queues.values():
            queue.close()

    def _prepare(
        self, queue: str, job: Job, query: Query, options: Options, field: str, wait: bool = False
    ) -> None:
        if not living([job], self._observer, partial(post, self._loop), "before the query was read"):
            return
        try:
            job.prepared = self.engine.prepare(query, options, field, wait=wait)
        except CostlyPicture as picture:
            again = partial(self._prepare, queue, job, query, options, field, wait=True)
            if waiting := self._costly.submit(job.path, again, picture.seconds):
                busy = f"pictures of this caller's that take {waiting:.0f} s to decode are waiting already"
                post(self._loop, [(job, OverloadedError(busy, retry_after_s=1.0))])
        except Exception as error:
            post(self._loop, [(job, presentable(error, "prepare"))])
        else:
            self._queues[queue].put(job)


def _embed(engine: Engine, batch: Sequence[Prepared]) -> list[tuple[Prepared, NDArray[np.float32]]]:
    started = perf_counter()
    vectors = engine.embed(batch)
    for prepared in batch:
        prepared.timings.encode = ms_since(started)
    return list(zip(batch, vectors, strict=True))


async def done_by(pool: FairPool, work: Callable[[], T]) -> T:
    """Do work of the current caller's in one of the threads of `pool`, when it is its turn."""
    future: Future[T] = Future()
    pool.submit(current().path, partial(_work, future, work))
    return await asyncio.wrap_future(future)


def _work(future: Future[T], work: Callable[[], T]) -> None:
    """Do work for a caller who is still there."""
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(work())
    except Exception as error:
        future.set_exception(error)


def _names(wanted: Filter) -> int:
    creators = len(wanted.include_creators) + len(wanted.exclude_creators)
    return creators + len(wanted.include_licences) + len(wanted.exclude_licences)


class Costly:
    """Turns and bounds of costly pictures. What a picture may cost, told from its header, is charged as it begins.

    For several threads.
    """

    def __init__(self, config: GatewayConfig) -> None:
        # Half of the cores: decoders give way to the server, but their caches and memory it shares with them.
        each = config.decode_processes or min(_MOST_BY_DEFAULT, max(1, cores() // 2))
        # One more, for a caller who has none at work; beside what additions and printed pages may have.
        allow(each + 1 + cores())
        self._pool = FairPool(each + 1, "costly", each=each)
        self._waiting: dict[str, float] = {}  # seconds of work by caller
        self._lock = threading.Lock()

    def submit(self, path: Path, work: Callable[[], None], seconds: float) -> float:
        """Queue a picture of so many CPU seconds; `work` must raise nothing.

        Where its caller has too much waiting, do not, and return how many seconds that is; else 0.
        """
        caller = caller_of(path)
        with self._lock:
            waiting = self._waiting.get(caller, 0.0)
            if waiting and waiting + seconds > COSTLY_BACKLOG_S:
                return waiting
            self._waiting[caller] = waiting + seconds

        def done() -> None:
            try:
                work()
            finally:
                with self._lock:
                    self._waiting[caller] -= seconds
                    # Sums of floats end near nothing.
                    if self._waiting[caller] <= 1e-6:
                        del self._waiting[caller]

        self._pool.submit(path, done, seconds)
        return 0.0

    def close(self) -> None:
        """Do what is queued, then end the threads."""
        self._pool.close()
