"""A whole job: take the run directory, score what is missing, finish; on this machine, or by another runner.

On this machine one thread reads and writes, several decode and encode whole batches. A worker takes its batch all the
way, so that decoding on one overlaps encoding and search on another; the libraries release the GIL. What is read ahead
is bounded in batches, so memory does not grow with the log, and they are enough to work on while a shard is written.

At the end come creators' totals, added up over committed shards in order, and the run's summary.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from attributary.bundle.files import sha256
from attributary.errors import OutputError, RunError
from attributary.machine import cores
from attributary.plain import csv_file

from .plan import Plan
from .rows import SCHEMA_VERSION, BundleState, Shard
from .run import (
    CREATORS,
    CREATORS_CSV,
    RUN,
    SHARDS,
    SUMMARY,
    Run,
    commit,
    json_bytes,
    parquet_bytes,
    read_json,
    read_shard,
    shard_name,
)
from .scoring import Scorer

_AHEAD = 3  # batches read for each worker
_UNWRITTEN = 2  # shards
# The rate of error rows says nothing about fewer.
_ENOUGH_ROWS = 100
CREATOR_COLUMNS = ("creator", "share", "share_in_distribution", "generations", "mean_share", "low", "high")


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
        for shard, batches in run.plan.read(shards):
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


@dataclass(slots=True)
class Totals:
    """Sums over the rows of a run, float64, in the order of rows."""

    rows: int = 0
    answered: int = 0
    out_of_distribution: int = 0
    last_revision: int = 0
    diffuse_share: float = 0.0
    withheld_share: float = 0.0
    errors: Counter[str] = field(default_factory=Counter)
    prompts: Counter[str] = field(default_factory=Counter)  # rows with a prompt, by where it was found
    names: dict[str, int] = field(default_factory=dict)
    # By creator, in columns: share, share in distribution, generations, and the ends of intervals as if all answers
    # erred the same way, NaN where one had none. Float64 holds whole numbers up to 2**53.
    sums: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 5)))

    def add(self, table: pa.Table) -> None:
        """Add one shard's rows."""
        self.rows += len(table)
        self.errors.update(code for code in table["error_code"].to_pylist() if code is not None)
        self.prompts.update(source for source in table["prompt_source"].to_pylist() if source is not None)
        answered = table.filter(pc.is_valid(table["creators"]))
        self.answered += len(answered)
        if len(answered):
            self.last_revision = max(self.last_revision, pc.max(answered["bundle_revision"]).as_py())
        foreign = np.asarray(answered["out_of_distribution"].to_numpy(), bool)
        self.out_of_distribution += int(foreign.sum())
        for share in answered["diffuse_share"].to_pylist():
            self.diffuse_share += share or 0.0
        for share in answered["withheld_share"].to_pylist():
            self.withheld_share += share or 0.0
        lists = answered["creators"].combine_chunks()
        row_of = pc.list_parent_indices(lists).to_numpy()
        flat: Any = pc.list_flatten(lists)
        codes = np.array([self._code(name) for name in flat.field("creator").to_pylist()], np.int64)
        shares = flat.field("share").to_numpy(zero_copy_only=False).astype(np.float64)
        # Null comes out as NaN, and a sum with it stays NaN.
        low, high = (flat.field(end).to_numpy(zero_copy_only=False) for end in ("low", "high"))
        in_distribution = np.where(foreign[row_of], 0.0, shares)
        columns = np.stack([shares, in_distribution, np.ones(len(shares)), low, high], axis=1)
        # np.add.at adds one after the other: the sum does not depend on how shards are read.
        np.add.at(self.sums, codes, columns.astype(np.float64))

    def creators(self) -> pa.Table:
        """Return one row a creator by descending share, then by name."""
        names = list(self.names)
        order = sorted(range(len(names)), key=lambda code: (-self.sums[code, 0], names[code]))
        share, in_distribution, generations, low, high = self.sums[order].T
        columns: tuple[Any, ...] = (
            pa.array([names[code] for code in order], pa.string()),
            pa.array(share, pa.float64()),
            pa.array(in_distribution, pa.float64()),
            pa.array(generations.astype(np.int64), pa.int64()),
            pa.array(share / max(1, self.answered), pa.float64()),
            pa.array(low, pa.float64(), from_pandas=True),
            pa.array(high, pa.float64(), from_pandas=True),
        )
        return pa.table(dict(zip(CREATOR_COLUMNS, columns, strict=True)))

    def _code(self, name: str) -> int:
        code = self.names.setdefault(name, len(self.names))
        if code >= len(self.sums):
            self.sums = np.concatenate([self.sums, np.zeros((max(64, len(self.sums)), 5))])
        return code


def finish(run: Run) -> dict[str, Any]:
    """Write creators' totals and then the summary of a run whose shards are all there; return the summary.

    Raises OutputError for a shard that is damaged and for what cannot be written.
    """
    totals = Totals()
    digests = {RUN: sha256(run.directory / RUN)}
    for shard in run.plan.shards:
        path = run.directory / SHARDS / shard_name(shard.number)
        totals.add(_verified(path, run.schema))
        digests[f"{SHARDS}/{path.name}"] = sha256(path)
    table = totals.creators()
    facts = {"attributary.schema_version": str(SCHEMA_VERSION), "attributary.run": run.run_id}
    rows = zip(*(table[name].to_pylist() for name in CREATOR_COLUMNS), strict=True)
    for name, data in (
        (CREATORS, parquet_bytes(table, facts)),
        (CREATORS_CSV, csv_file(CREATOR_COLUMNS, rows)),
    ):
        commit(run.directory / name, data, name)
        digests[name] = sha256(run.directory / name)
    summary = {
        "schema_version": SCHEMA_VERSION,
        "run": run.run_id,
        "bundle_id": run.bundle.id,
        # As the run began, and of the last change that a row was answered after; rows say which is theirs.
        "bundle_revision": run.bundle.revision,
        "last_bundle_revision": max(run.bundle.revision, totals.last_revision),
        "rows": totals.rows,
        "answered": totals.answered,
        "errors": dict(sorted(totals.errors.items())),
        "prompts": {"rows": totals.prompts.total(), "by_source": dict(sorted(totals.prompts.items()))},
        "skipped": dict(sorted(run.plan.fates.skipped.items())),
        "ignored": dict(sorted(run.plan.fates.ignored.items())),
        "out_of_distribution": totals.out_of_distribution,
        "diffuse_share": totals.diffuse_share,
        "withheld_share": totals.withheld_share,
        "attributed_share": float(sum(share or 0.0 for share in table["share"].to_pylist())),
        "creators": len(table),
        "files": digests,
    }
    commit(run.directory / SUMMARY, json_bytes(summary), SUMMARY)
    return summary


def _verified(path: Path, schema: pa.Schema) -> pa.Table:
    """Read a shard of which every byte is what the contract writes for its rows."""
    table = read_shard(path)
    facts = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    # Page checksums leave headers and footers out; the writer's determinism covers every bit.
    if parquet_bytes(table.cast(schema), facts) != path.read_bytes():
        raise OutputError(
            f"{SHARDS}/{path.name}",
            "is damaged: its bytes are not its rows'; remove it to have it scored again",
        )
    return table
