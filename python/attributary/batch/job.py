"""A whole job: take the run directory, score what is missing, finish; on this machine, or by another runner.

On this machine one thread reads and writes, several decode and encode whole batches. A worker takes its batch all the
way, so that decoding on one overlaps encoding and search on another; the libraries release the GIL. What is read ahead
is bounded in batches, so memory does not grow with the log, and they are enough to work on while a shard is written.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from attributary.errors import RunError
from attributary.machine import cores

from .plan import Plan
from .rows import Batch, BundleState, Shard
from .run import SUMMARY, Run, read_json
from .scoring import Scorer
from .totals import finish

_AHEAD = 3  # batches read for each worker
_UNWRITTEN = 2  # shards
# The rate of error rows says nothing about fewer.
_ENOUGH_ROWS = 100


@dataclass(slots=True)
class Counts:
    """How far a run is. `rows` includes those that were committed before this process began."""

    total: int
    rows: int = 0
    errors: int = 0
    resumed: int = 0  # rows that were there already


Progress = Callable[[Counts], None]


class Tally:
    """Counts of a run from what is committed on. `missing` are the shards that are still to be made, in order.

    Raises RunError naming the rate, here or in `add`, as soon as more than `max_error_rate` of the rows, counted from
    100 rows on, are error rows: the run is plainly wrong.
    """

    def __init__(self, run: Run, max_error_rate: float, progress: Progress) -> None:
        there = run.committed()
        self.missing = [shard for shard in run.plan.shards if shard.number not in there]
        resumed = sum(shard.rows for shard in run.plan.shards if shard.number in there)
        self.counts = Counts(run.plan.rows, rows=resumed, errors=sum(there.values()), resumed=resumed)
        self._most, self._progress = max_error_rate, progress
        self._check()
        progress(self.counts)

    def add(self, shard: Shard, errors: int) -> None:
        """Count a shard that was committed with so many error rows."""
        self.counts.rows += shard.rows
        self.counts.errors += errors
        self._progress(self.counts)
        self._check()

    def _check(self) -> None:
        counts = self.counts
        if counts.errors > self._most * max(counts.rows, _ENOUGH_ROWS):
            raise RunError(
                "max_error_rate",
                f"{counts.errors} of the first {counts.rows} rows are error rows, more than {self._most:.1%}; see "
                "error_message in the shards that are there, and raise the rate if they are right",
            )


Runner = Callable[[Run], Counts]


@dataclass(frozen=True, slots=True)
class Result:
    """A finished run."""

    directory: Path
    counts: Counts
    summary: dict[str, Any]  # summary.json


def score(
    plan: Plan,
    scorer: Scorer,
    out: Path,
    *,
    workers: int | None = None,
    max_error_rate: float = 1.0,
    progress: Progress = lambda counts: None,
) -> Result:
    """Score a planned log into a run directory, or go on with one that was stopped.

    The directory is a function of plan and bundle alone: the number of `workers` and of interruptions leave no trace.
    A bundle that is changed meanwhile ends no run: each row says at which revision it was answered. Raises InputError,
    OutputError, RunError, and UnavailableError where an engine or a store is away; shards that are committed stay
    committed.
    """

    def runner(run: Run) -> Counts:
        tally = Tally(run, max_error_rate, progress)
        with closing(_scored(run, scorer, tally.missing, workers or cores())) as committed:
            for shard, errors in committed:
                tally.add(shard, errors)
        return tally.counts

    return run_job(plan, scorer.bundle(), out, runner)


def run_job(plan: Plan, bundle: BundleState, out: Path, runner: Runner) -> Result:
    """Hold the run directory while `runner` commits the missing shards, then write totals and summary."""
    with Run(out, plan, bundle) as run:
        counts = runner(run)
        there = run.directory / SUMMARY
        # Nothing was missing and the end was written: a finished run is not written again.
        complete = counts.resumed == counts.total and there.exists()
        return Result(run.directory, counts, read_json(there) if complete else finish(run))


def _scored(
    run: Run, scorer: Scorer, shards: list[Shard], workers: int
) -> Generator[tuple[Shard, int], None, None]:
    """Yield (shard, error rows) as shards are committed, in order. Closed, batches that have not begun are dropped."""
    slots, failed = threading.BoundedSemaphore(workers * _AHEAD), threading.Event()
    waiting: deque[tuple[Shard, list[Future[pa.RecordBatch]]]] = deque()

    def done(future: Future[pa.RecordBatch]) -> None:
        if not future.cancelled() and future.exception() is not None:
            failed.set()
        slots.release()

    def committed() -> tuple[Shard, int]:
        shard, batches = waiting.popleft()
        return shard, run.commit(shard, [batch.result() for batch in batches])

    pool = ThreadPoolExecutor(workers, thread_name_prefix="score")
    try:
        for shard, batches in _read(run.plan, shards):
            waiting.append((shard, []))
            for batch in batches:
                slots.acquire()
                if failed.is_set():
                    # The batch raises its error below, once the shards before it are written.
                    slots.release()
                    break
                waiting[-1][1].append(pool.submit(scorer.score, batch, run.schema, run.bundle.id))
                waiting[-1][1][-1].add_done_callback(done)
                # Its worker alone holds it from here on.
                del batch
            while len(waiting) > _UNWRITTEN or (waiting and all(part.done() for part in waiting[0][1])):
                yield committed()
        while waiting:
            yield committed()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _read(plan: Plan, shards: list[Shard]) -> Iterator[tuple[Shard, Iterator[Batch]]]:
    """Yield each shard with its batches; one file is open at a time, and read on where the last shard of it ended."""
    place, reader = -1, None
    try:
        for shard in shards:
            if reader is None or shard.file != place:
                if reader is not None:
                    reader.close()
                place, reader = shard.file, plan.reader(shard.file)
            yield shard, plan.batches(reader, shard)
    finally:
        if reader is not None:
            reader.close()
