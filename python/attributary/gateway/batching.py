"""Dynamic batching: queries that wait together go through the engine together.

With a delay of 0 batching is continuous: an idle worker takes what is there at once, so a lone query never
waits, and batches form by themselves while the workers are busy.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import monotonic, perf_counter, thread_time
from typing import Any, TypeAlias

import structlog

from attributary import deadline
from attributary.attribution.types import Prepared
from attributary.errors import DeadlineError, OverloadedError, UnavailableError

from .callers import current
from .errors import of_engine
from .fairness import FairQueue, Path, Threads
from .metrics import Metrics

log = structlog.get_logger(__name__)

# A query that takes no more CPU time is answered on the event loop: handing it to a thread, and its answer back, costs
# .3 to .6 ms, and makes the query itself longer, twice as long where a core's caches are cold. So many such batches
# come before that; one that was longer weighs as much as some of them.
_SHORT_S = 0.001
_MANY = 64
_LONG = 16
# However little it computes, what waits (for a disk) must not hold the event loop up.
_WAIT_S = 0.02
# Turns of the event loop in which no further query comes, before those that are there are answered: where the last
# batch held several. gRPC brings calls one after the other, and a query of several costs a part of a lone one.
_TURNS = 20
# What a queue gives for each query, an answer or an embedding; or why it cannot.
Outcome = Any | Exception


@dataclass(slots=True, eq=False)
class Job:
    """One query on its way. `future` belongs to the event loop; a caller who leaves cancels it."""

    future: asyncio.Future[Any]
    deadline: float  # on the monotonic clock, seconds; infinity without one
    arrived: float  # perf_counter, seconds
    prepared: Prepared | None = None
    path: Path = field(default_factory=lambda: current().path)  # whose it is, for its turn in a queue

    def dead(self) -> str | None:
        """Say why no work should be done for this query, None if it should. Callable from any thread."""
        if self.future.done():
            return "departed"
        return "expired" if monotonic() >= self.deadline else None


# What answers queries.
Tell: TypeAlias = Callable[[list[tuple[Job, Outcome]]], None]


class Batcher(Threads):
    """A queue with its engine threads, made on the event loop. One wake-up of the loop a batch, whatever its size.

    With `here`, plain queries that come from the event loop are answered on it while they are short; all that are there
    at once make a batch. What is more than a batch, and every query while they are not short, goes to the threads.
    """

    def __init__(
        self,
        name: str,
        run: Callable[[Sequence[Prepared]], list[Any]],
        loop: asyncio.AbstractEventLoop,
        observer: Metrics,
        *,
        max_batch: int,
        max_delay_s: float = 0.0,
        workers: int = 1,
        here: bool = False,
    ) -> None:
        self._name, self._run, self._loop, self._observer = name, run, loop, observer
        self._max_batch, self._max_delay = max_batch, max_delay_s
        self._queue: FairQueue[Job] = FairQueue()
        self._may_be_here = here and max_delay_s == 0
        self._here: list[Job] = []
        self._turns = 1
        self._short = 0  # how many batches were, lately
        super().__init__(name, workers, self._work)

    def __len__(self) -> int:
        return len(self._queue) + len(self._here)

    def put_here(self, job: Job) -> None:
        """As `put`, on the event loop: what need not be handed over is not."""
        if not self._may_be_here or self._short < _MANY:
            self.put(job)
            return
        self._here.append(job)
        if len(self._here) == 1:
            self._loop.call_soon(self._run_here, 1, self._turns)

    def put(self, job: Job) -> None:
        """Queue a prepared query; callable from any thread. The answer or error goes to its future."""
        with self._changed:
            self._queue.put(job.path, job)
            self._changed.notify()

    def _post(self, outcomes: list[tuple[Job, Outcome]]) -> None:
        post(self._loop, outcomes)

    def _work(self) -> None:
        while (batch := self._take()) is not None:
            outcomes = self._answer(living(batch, self._observer, self._post))
            if outcomes:
                self._post(outcomes)
            # These names would hold the pictures until the next batch comes.
            del batch, outcomes

    def _run_here(self, seen: int, turns: int) -> None:
        """Run a batch, unless calls are still being taken: each brings some more within a turn or two of the loop."""
        waiting = len(self._here)
        if waiting < self._max_batch and (waiting > seen or turns):
            self._loop.call_soon(self._run_here, waiting, self._turns if waiting > seen else turns - 1)
            return
        self._turns = _TURNS if waiting > 1 else 1
        jobs, self._here = self._here, []
        for job in jobs[self._max_batch :]:
            self.put(job)
        deliver(self._answer(living(jobs[: self._max_batch], self._observer, self._post)))

    def _take(self) -> list[Job] | None:
        with self._changed:
            while not self._queue:
                if self._closed:
                    return None
                self._changed.wait()
            if self._max_delay > 0:
                self._fill()
            return [self._queue.pop() for _ in range(min(self._max_batch, len(self._queue)))]

    def _fill(self) -> None:
        until = min(job.arrived for job in self._queue) + self._max_delay
        while 0 < len(self._queue) < self._max_batch and not self._closed:
            left = until - perf_counter()
            if left <= 0:
                return
            self._changed.wait(left)

    def _answer(self, batch: list[Job]) -> list[tuple[Job, Outcome]]:
        if not batch:
            return []
        self._observer.batch(self._name, len(batch))
        prepared = [started(job) for job in batch]
        try:
            begun, worked = perf_counter(), thread_time()
            with deadline.until(max(job.deadline for job in batch)):
                answers = self._run(prepared)
            short = thread_time() - worked <= _SHORT_S * len(batch) and perf_counter() - begun <= _WAIT_S
            self._short = min(self._short + 1, 2 * _MANY) if short else max(self._short - _LONG, 0)
            if len(answers) != len(batch):
                raise RuntimeError(f"the engine gave {len(answers)} answers to {len(batch)} queries")
            return list(zip(batch, answers, strict=True))
        except DeadlineError as error:
            return [(job, of_engine(error, self._name)) for job in batch]
        except UnavailableError as error:
            # The reason names machines of the inside: it is for the log. Alone, no query would fare better.
            log.warning("the index behind this server is away", queue=self._name, reason=str(error))
            return [(job, UnavailableError("the index behind this server is away")) for job in batch]
        except OverloadedError as error:
            # Asking again for each query would load it more.
            full = "the index behind this server is full"
            return [(job, OverloadedError(full, error.retry_after_s)) for job in batch]
        except Exception as error:
            if len(batch) == 1:
                return [(batch[0], of_engine(error, self._name))]
            # One of them makes the batch fail: each is asked alone.
            log.warning("a batch failed; its members are tried one by one", queue=self._name, size=len(batch))
            left = living(batch, self._observer, self._post)
            return [outcome for job in left for outcome in self._answer([job])]


def living(
    jobs: list[Job], observer: Metrics, tell: Tell, late: str = "while the query was queued"
) -> list[Job]:
    """Return the queries that work should be done for; the others are counted, and fail where their time is over."""
    kept = []
    for job in jobs:
        reason = job.dead()
        if reason is None:
            kept.append(job)
            continue
        observer.dropped(reason)
        if reason == "expired":
            tell([(job, DeadlineError(f"the deadline passed {late}"))])
    return kept


def started(job: Job) -> Prepared:
    """Return a job's query, its time in the queue noted: its batch starts now."""
    prepared = job.prepared
    assert prepared is not None
    timings = prepared.timings
    inside = (perf_counter() - job.arrived) * 1e3
    timings.queue = max(0.0, inside - timings.decode - timings.preprocess - timings.tokenize)
    return prepared


def post(loop: asyncio.AbstractEventLoop, outcomes: list[tuple[Job, Outcome]]) -> None:
    """Answer callers from any thread."""
    # A closed loop has no callers left to tell.
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(deliver, outcomes)


def deliver(outcomes: list[tuple[Job, Outcome]]) -> None:
    """Answer callers who are still there; on the event loop only."""
    for job, outcome in outcomes:
        if job.future.done():
            continue
        if isinstance(outcome, Exception):
            job.future.set_exception(outcome)
        else:
            job.future.set_result(outcome)
