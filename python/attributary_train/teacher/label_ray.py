"""Labels on Ray: the same folder, plan and shards, made by actors on any number of machines.

Model, corpus, queries and the folder must be seen under the same paths on every machine. A shard is committed by the
actor that made it, under the same lock as locally, so local workers and a cluster may even share a folder.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import ray

from attributary_train.teacher.errors import TeacherError
from attributary_train.teacher.label_factory import Job, Log, Made, prepare, summary
from attributary_train.teacher.labels import LabelSettings, read_plan, shard_path

# As often as a local shard is started.
MAX_STARTS = 3


class _Actor:
    """Holds the teacher of one process; opened once."""

    def __init__(self, folder: str, device: str) -> None:
        import torch

        from attributary_train.teacher.label_worker import Labeller

        torch.set_num_threads(1)
        self.labeller = Labeller(Path(folder), device)

    def shard(self, number: int) -> int:
        from filelock import FileLock

        from attributary_train.teacher.labels import LOCKS

        with FileLock(self.labeller.folder / LOCKS / f"{number:05d}.lock"):
            if not shard_path(self.labeller.folder, number).exists():
                self.labeller.shard(number)
        return number

    def give_up(self, number: int, reason: str) -> int:
        self.labeller.give_up(number, reason)
        return number


def label_on_ray(
    job: Job,
    settings: LabelSettings,
    *,
    actors: int = 2,
    gpus: float = 0.0,
    address: str | None = None,
    log: Log = print,
) -> Made:
    """Label as `make_labels` does, with `actors` Ray actors of one core and `gpus` GPUs each.

    An actor that dies is replaced and its shard given out again; a shard that kills three is written with errors.
    Raises `TeacherError` if there is no cluster at `address` (None: one is started here).
    """
    if actors < 1:
        raise TeacherError("actors", f"{actors}; must be at least 1")
    prepare(job, settings, log)
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
            _work(job.folder, todo, min(actors, len(todo)), gpus, log)
    finally:
        if started:
            ray.shutdown()
    return summary(job, pairs, time.monotonic() - began, log)


def _work(folder: Path, todo: list[int], actors: int, gpus: float, log: Log) -> None:
    kind: Any = ray.remote(num_cpus=1, num_gpus=gpus)(_Actor)
    device = "cuda" if gpus else "cpu"

    def new() -> Any:
        return kind.remote(str(folder), device)

    waiting, starts = list(reversed(todo)), dict.fromkeys(todo, 0)
    running: dict[Any, tuple[Any, int]] = {}
    idle = [new() for _ in range(actors)]
    done = 0
    while waiting or running:
        while waiting and idle:
            actor, number = idle.pop(), waiting.pop()
            starts[number] += 1
            if starts[number] > MAX_STARTS:
                running[actor.give_up.remote(number, f"its worker died {MAX_STARTS} times")] = (actor, number)
            else:
                running[actor.shard.remote(number)] = (actor, number)
        (ready,), _ = ray.wait(list(running), num_returns=1)
        actor, number = running.pop(ready)
        try:
            ray.get(ready)
        except ray.exceptions.RayActorError:
            waiting.append(number)
            idle.append(new())
            continue
        except ray.exceptions.RayTaskError as error:
            raise TeacherError("label actor", f"shard {number}: {error.cause}") from error
        idle.append(actor)
        done += 1
        log(f"labels: {done} of {len(todo)} shards")
