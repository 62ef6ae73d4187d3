"""Labels on Ray: the same folder, plan and shards, made by actors on any number of machines.

Model, corpus, queries and the folder must be seen under the same paths on every machine. A shard is committed by the
actor that made it, under the same lock as locally, so local workers and a cluster may even share a folder.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import ray
from filelock import FileLock

from attributary_train.errors import TeacherError
from attributary_train.jobs import MAX_STARTS
from attributary_train.teacher.label_factory import Job, Log, Made, prepare, summary
from attributary_train.teacher.labels import (
    LOCKS,
    LabelSettings,
    errors_of,
    forget_failures,
    read_plan,
    shard_name,
    shard_path,
    write_shard,
)


class _Actor:
    """Holds the teacher of one process; opened once."""

    def __init__(self, folder: str, device: str) -> None:
        import torch

        from attributary_train.teacher.label_worker import Labeller

        torch.set_num_threads(1)
        self.labeller = Labeller(Path(folder), device)

    def shard(self, number: int) -> int:
        with FileLock(self.labeller.folder / LOCKS / f"{shard_name(number)}.lock"):
            if not shard_path(self.labeller.folder, number).exists():
                self.labeller.make(shard_name(number))
        return number

    def ready(self) -> None:
        """Answered once the teacher is opened."""


def label_on_ray(
    job: Job,
    settings: LabelSettings,
    *,
    actors: int = 2,
    gpus: float = 0.0,
    address: str | None = None,
    retry_failed: bool = False,
    log: Log = print,
) -> Made:
    """Label as `make_labels` does, with `actors` Ray actors of one core and `gpus` GPUs each.

    An actor that dies is replaced and its shard given out again; a shard that kills three is written with errors.
    Raises `TeacherError` if there is no cluster at `address` (None: one is started here), or if actors die three times
    in a row before they are ready.
    """
    TeacherError.if_below(1, actors=actors)
    prepare(job, settings, log)
    if retry_failed:
        log(f"{forget_failures(job.folder)} shards with failed queries are made again")
    plan = read_plan(job.folder)
    todo = [number for number in plan if not shard_path(job.folder, number).exists()]
    pairs = sum(len(entry.candidates) for number in todo for entry in plan[number])
    began = time.monotonic()
    started = not ray.is_initialized()
    if started:
        try:
            ray.init(address=address, log_to_driver=False, include_dashboard=False)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise TeacherError("address", f"no Ray cluster at {address}: {error}") from error
    try:
        if todo:
            _work(job, todo, min(actors, len(todo)), gpus, log)
    finally:
        if started:
            ray.shutdown()
    return summary(job, pairs, time.monotonic() - began, log)


def _work(job: Job, todo: list[int], actors: int, gpus: float, log: Log) -> None:
    kind: Any = ray.remote(num_cpus=1, num_gpus=gpus)(_Actor)
    device = "cuda" if gpus else "cpu"
    waiting, starts = list(reversed(todo)), dict.fromkeys(todo, 0)
    # What each actor is at: a shard, or None while it opens its teacher.
    running: dict[Any, tuple[Any, int | None]] = {}
    idle: list[Any] = []
    never_ready = done = 0

    def start() -> None:
        actor = kind.remote(str(job.folder), device)
        running[actor.ready.remote()] = (actor, None)

    for _ in range(actors):
        start()
    while waiting or any(number is not None for _, number in running.values()):
        while waiting and idle:
            actor, number = idle.pop(), waiting.pop()
            starts[number] += 1
            running[actor.shard.remote(number)] = (actor, number)
        (ready,), _ = ray.wait(list(running), num_returns=1)
        actor, at = running.pop(ready)
        try:
            ray.get(ready)
        except ray.exceptions.RayActorError as error:
            if at is None:
                never_ready += 1
                if never_ready >= MAX_STARTS:
                    raise TeacherError(
                        "label actor", f"died {MAX_STARTS} times before it was ready: {error}"
                    ) from error
            elif starts[at] < MAX_STARTS:
                waiting.append(at)
            else:
                # By this process: another actor may die of it as well, or not start at all.
                _give_up(job, at, f"its worker died {MAX_STARTS} times")
                done += 1
            start()
            continue
        except ray.exceptions.RayTaskError as error:
            raise TeacherError("label actor", f"shard {at}: {error.cause}") from error
        idle.append(actor)
        if at is None:
            never_ready = 0
            continue
        done += 1
        log(f"labels: {done} of {len(todo)} shards")


def _give_up(job: Job, number: int, reason: str) -> None:
    with FileLock(job.folder / LOCKS / f"{shard_name(number)}.lock"):
        if not shard_path(job.folder, number).exists():
            table = pq.read_table(job.queries, columns=["name", "split"]).to_pydict()
            splits = dict(zip(table["name"], table["split"], strict=True))
            write_shard(job.folder, number, errors_of(read_plan(job.folder)[number], splits, reason))
