"""Running a job on this machine: one thread reads, several decode and encode whole batches, one writes.

A worker takes its batch all the way, so that decoding on one overlaps encoding and search on another; the libraries
release the GIL. What is read ahead is bounded in batches, so memory does not grow with the log.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import pyarrow as pa

from .counting import Counts, Progress, Tally
from .plan import Plan
from .rows import Batch, Shard
from .run import Run
from .scoring import Scorer, score_batch

_AHEAD = 3  # batches read for each worker
_UNWRITTEN = 2  # shards


@dataclass(slots=True)
class _Pending:
    shard: Shard
    batches: list[Future[pa.RecordBatch]] = field(default_factory=list)


def run_local(
    run: Run,
    scorer: Scorer,
    *,
    workers: int,
    max_error_rate: float = 1.0,
    progress: Progress = lambda counts: None,
) -> Counts:
    """Score the missing shards of a run, commit them in order, and return the counts.

    Raises what a reader, the scorer or a writer raises, and RunError past the error rate; what is committed stays.
    """
    tally = Tally(run, max_error_rate, progress)
    line = _Line(run, scorer, workers)
    try:
        for shard, errors in line.run(tally.missing):
            tally.add(shard, errors)
    finally:
        line.stop()
    return tally.counts


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
            pending = _Pending(shard)
            for batch in batches:
                self._slots.acquire()
                if self._failed.is_set():
                    self._slots.release()
                    break
                pending.batches.append(self._submit(batch))
                # Held no longer than its worker needs it.
                del batch
            self._writing.append((shard, self._writer.submit(self._write, pending)))
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
        writer = self._run.writer
        future = self._workers.submit(score_batch, self._scorer, batch, writer.schema, writer.bundle.id)
        future.add_done_callback(self._done)
        return future

    def _done(self, future: Future[pa.RecordBatch]) -> None:
        if not future.cancelled() and future.exception() is not None:
            self._failed.set()
        self._slots.release()

    def _write(self, pending: _Pending) -> int:
        try:
            batches = [future.result() for future in pending.batches]
            return self._run.writer.commit(pending.shard, batches)
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
