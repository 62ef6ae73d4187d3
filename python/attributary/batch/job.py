"""A whole job: take the run directory, score what is missing, finish; on this machine, or by another runner.

On this machine one thread reads, several decode and encode whole batches, one writes. A worker takes its batch all the
way, so that decoding on one overlaps encoding and search on another; the libraries release the GIL. What is read ahead
is bounded in batches, so memory does not grow with the log.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from attributary.errors import RunError

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


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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
        line = _Line(run, scorer, workers or cores())
        try:
            for shard, errors in line.run(tally.missing):
                tally.add(shard, errors)
        finally:
            line.stop()
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


class _Line:
    """Reader, workers and writer of one run."""

    def __init__(self, run: Run, scorer: Scorer, workers: int) -> None:
        self._run, self._scorer = run, scorer
        self._workers = ThreadPoolExecutor(workers, thread_name_prefix="score")
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="write")
        self._slots = threading.BoundedSemaphore(workers * _AHEAD)
        self._failed = threading.Event()
        self._writing: deque[tuple[Shard, Future[int]]] = deque()

    def run(self, shards: list[Shard]) -> Iterator[tuple[Shard, int]]:
        """Yield (shard, error rows) as shards are committed, in order."""
        for shard, batches in _read(self._run.plan, shards):
            pending: list[Future[pa.RecordBatch]] = []
            for batch in batches:
                self._slots.acquire()
                if self._failed.is_set():
                    self._slots.release()
                    break
                pending.append(self._submit(batch))
                # Held no longer than its worker needs it.
                del batch
            self._writing.append((shard, self._writer.submit(self._write, shard, pending)))
            while len(self._writing) > _UNWRITTEN or (self._writing and self._writing[0][1].done()):
                yield self._written()
        while self._writing:
            yield self._written()

    def stop(self) -> None:
        """End the threads: batches that have not begun are dropped, whole shards still written."""
        self._failed.set()
        self._workers.shutdown(wait=True, cancel_futures=True)
        self._writer.shutdown(wait=True)

    def _submit(self, batch: Batch) -> Future[pa.RecordBatch]:
        run = self._run
        future = self._workers.submit(self._scorer.score, batch, run.schema, run.bundle.id)
        future.add_done_callback(self._done)
        return future

    def _done(self, future: Future[pa.RecordBatch]) -> None:
        if not future.cancelled() and future.exception() is not None:
            self._failed.set()
        self._slots.release()

    def _write(self, shard: Shard, pending: list[Future[pa.RecordBatch]]) -> int:
        try:
            return self._run.commit(shard, [future.result() for future in pending])
        except BaseException:
            self._failed.set()
            raise

    def _written(self) -> tuple[Shard, int]:
        shard, future = self._writing.popleft()
        return shard, future.result()


def _read(plan: Plan, shards: list[Shard]) -> Iterator[tuple[Shard, Iterator[Batch]]]:
    """Yield each shard with its batches; one file is open at a time, and read on where the last shard of it ended."""
    size = plan.settings.batch_size
    place, reader = -1, None
    try:
        for shard in shards:
            if reader is None or shard.file != place:
                if reader is not None:
                    reader.close()
                place, reader = shard.file, plan.reader(shard.file)
            yield shard, reader.batches(shard, size)
    finally:
        if reader is not None:
            reader.close()
