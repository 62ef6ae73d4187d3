"""A whole job: plan the log, take the run directory, score what is missing, finish."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .counting import Counts, Progress
from .local import run_local
from .plan import Plan
from .rows import BundleState
from .run import SUMMARY, Run, read_json
from .scoring import Scorer
from .totals import finish

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
        return run_local(
            run, scorer, workers=workers or cores(), max_error_rate=max_error_rate, progress=progress
        )

    return run_job(plan, scorer.bundle(), out, runner)


def run_job(plan: Plan, bundle: BundleState, out: Path, runner: Runner) -> Result:
    """Hold the run directory while `runner` commits the missing shards, then write totals and summary."""
    with Run(out, plan, bundle) as run:
        counts = runner(run)
        there = run.directory / SUMMARY
        # Nothing was missing and the end was written: a finished run is not written again.
        complete = counts.resumed == counts.total and there.exists()
        return Result(run.directory, counts, read_json(there) if complete else finish(run))
