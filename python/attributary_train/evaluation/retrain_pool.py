"""Retraining in parallel: one single-threaded process a core, any number of starts, no run done twice."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from attributary_train import jobs
from attributary_train.errors import EvaluationError
from attributary_train.evaluation.retrain import RetrainStore
from attributary_train.evaluation.retrain_todo import write_todo
from attributary_train.evaluation.retrain_worker import STEP_FILE
from attributary_train.subject.train import Run

# What a worker may write at once: a checkpoint beside its predecessor, and the finished weights.
_ROOM_BYTES = 200 << 20


@dataclass(frozen=True)
class Outcome:
    """What became of a to-do list. `failed`: digest of a run -> why; `trained`: runs of this call."""

    trained: int
    reused: int
    failed: dict[str, str]


def retrain(
    store: RetrainStore,
    runs: Sequence[Run],
    *,
    workers: int = 2,
    save_every: int = 250,
    devices: Sequence[str] = ("cpu",),
    say: Callable[[str], None] | None = None,
) -> Outcome:
    """Train every run that the store does not hold yet; returns when all are finished or failed.

    May be killed at any moment and called again, and called by several processes on one store at a time: a finished
    run is never repeated, an unfinished one goes on from its last checkpoint (`save_every` steps). Workers take
    `devices` in turn; runs that are to be paired belong on one kind of device. Raises `EvaluationError` if the runs
    are of several recipes, a device is not there, the disk is full, or a worker cannot start.
    """
    EvaluationError.if_below(1, workers=workers)
    for device in devices:
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise EvaluationError("device", f"{device}: no CUDA device is available")
    todo = store.missing(runs)
    known = {store.digest(run): run for run in runs}
    if todo:
        _prepare(store)
        listing = store.folder / "work" / f"todo-{os.getpid()}.json"
        write_todo(listing, store, todo, save_every)
        crew = jobs.Crew(
            "retrain worker",
            "attributary_train.evaluation.retrain_worker",
            (str(store.folder), str(listing)),
            min(workers, len(todo)),
            devices,
            logs=store.folder / "work",
            pieces="runs",
            unit="runs",
            total=len(todo),
            error=EvaluationError,
        )
        try:
            jobs.supervise(
                crew,
                lambda: _progress(store, todo),
                lambda: len(store.missing(todo)),
                say or (lambda line: None),
            )
        finally:
            listing.unlink(missing_ok=True)
    failed = {name: reason for name, run in known.items() if (reason := store.failure(run)) is not None}
    trained = sum(store.done(run) for run in todo)
    return Outcome(trained, len(known) - trained - len(failed), failed)


def _prepare(store: RetrainStore) -> None:
    try:
        for folder in (store.locks, *(store.folder / name for name in ("work", "data", "losses"))):
            folder.mkdir(parents=True, exist_ok=True)
        room = os.statvfs(store.folder)
    except OSError as error:
        raise EvaluationError(str(store.folder), f"cannot be written: {error}") from error
    free = room.f_bavail * room.f_frsize
    if free < _ROOM_BYTES:
        raise EvaluationError(
            str(store.folder), f"{free >> 20} MiB free; {_ROOM_BYTES >> 20} MiB are needed for checkpoints"
        )


def _progress(store: RetrainStore, todo: Sequence[Run]) -> float:
    """Runs done, unfinished ones counted by their steps."""
    total = 0.0
    for run in todo:
        if store.done(run) or store.failure(run) is not None:
            total += 1.0
            continue
        try:
            total += int((store.work(run) / STEP_FILE).read_text()) / run.recipe.steps
        except (OSError, ValueError):
            continue
    return total
