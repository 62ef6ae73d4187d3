"""Retraining in parallel: one single-threaded process a core, any number of starts, no run done twice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save as to_bytes

from attributary_train.evaluation.errors import EvaluationError
from attributary_train.evaluation.retrain import RetrainStore
from attributary_train.evaluation.retrain_worker import CAPTION_TENSORS, NO_ROOM, STEP_FILE, run_to_json
from attributary_train.subject.train import Run

# What a worker may write at once: a checkpoint beside its predecessor, and the finished weights.
_ROOM_BYTES = 200 << 20
_SAY_EVERY_S = 30.0
# A look opens a file per run: often enough for tests, rare enough to cost nothing.
_LOOK_EVERY_S = 2.0


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
    if workers < 1:
        raise EvaluationError("workers", f"{workers}; must be at least 1")
    for device in devices:
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise EvaluationError("device", f"{device}: no CUDA device is available")
    todo = store.missing(runs)
    known = {store.digest(run): run for run in runs}
    if todo:
        _prepare(store)
        _work(store, todo, min(workers, len(todo)), save_every, devices, say or (lambda line: None))
    failed = {name: reason for name, run in known.items() if (reason := store.failure(run)) is not None}
    trained = sum(store.done(run) for run in todo)
    return Outcome(trained, len(known) - trained - len(failed), failed)


def _prepare(store: RetrainStore) -> None:
    try:
        for name in ("work", "locks", "data", "losses"):
            (store.folder / name).mkdir(parents=True, exist_ok=True)
        _write_data(store)
        room = os.statvfs(store.folder)
    except OSError as error:
        raise EvaluationError(str(store.folder), f"cannot be written: {error}") from error
    free = room.f_bavail * room.f_frsize
    if free < _ROOM_BYTES:
        raise EvaluationError(
            str(store.folder), f"{free >> 20} MiB free; {_ROOM_BYTES >> 20} MiB are needed for checkpoints"
        )


def _data_file(store: RetrainStore) -> Path:
    return store.folder / "data" / f"{store.data_digest[:32]}.safetensors"


def _write_data(store: RetrainStore) -> None:
    path, data = _data_file(store), store.data
    if path.exists():
        return
    tensors = {
        "ids": torch.from_numpy(data.ids.copy()),
        "latents": data.latents.contiguous(),
        "text": data.text.contiguous(),
        "empty": data.empty.contiguous(),
    }
    part = path.with_suffix(f".{os.getpid()}.part")
    about = {"prompts": json.dumps(data.prompts), "digest": data.digest}
    if data.captions is not None:
        several = data.captions
        tensors |= {f"captions.{name}": getattr(several, name).contiguous() for name in CAPTION_TENSORS}
        about["captions"] = json.dumps([several.levels, several.prompts])
    tensors |= {f"start.{name}": value.contiguous() for name, value in (data.start or {}).items()}
    part.write_bytes(to_bytes(tensors, about))
    part.replace(path)


def _work(
    store: RetrainStore,
    todo: Sequence[Run],
    workers: int,
    save_every: int,
    devices: Sequence[str],
    say: Callable[[str], None],
) -> None:
    recipes = {run.recipe.digest(): run.recipe for run in todo}
    if len(recipes) > 1:
        raise EvaluationError("runs", f"{len(recipes)} recipes in one list; ask for one after the other")
    listing = store.folder / "work" / f"todo-{os.getpid()}.json"
    listing.write_text(
        json.dumps(
            {
                "data": str(_data_file(store)),
                "recipe": todo[0].recipe.to_json(),
                "runs": [run_to_json(run) for run in todo],
                "save_every": save_every,
                "parent": os.getpid(),
            }
        )
    )
    logs = [store.folder / "work" / f"worker-{os.getpid()}-{at}.log" for at in range(workers)]
    processes = [_start(store, listing, log, devices[at % len(devices)]) for at, log in enumerate(logs)]
    try:
        _watch(store, todo, processes, say)
        _explain(store, todo, processes, logs)
    finally:
        for process in processes:
            if process.poll() is None:
                process.terminate()
        for process in processes:
            process.wait()
        for path in (listing, *logs):
            path.unlink(missing_ok=True)


def _start(store: RetrainStore, listing: Path, log: Path, device: str) -> subprocess.Popen[bytes]:
    # More threads would change the weights' last bits and spend more than they give at this size.
    single = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    command = [
        sys.executable,
        "-m",
        "attributary_train.evaluation.retrain_worker",
        str(store.folder),
        str(listing),
        device,
    ]
    with log.open("wb") as stream:
        return subprocess.Popen(command, env={**os.environ, **single}, stdout=stream, stderr=stream)


def _watch(
    store: RetrainStore,
    todo: Sequence[Run],
    processes: Sequence[subprocess.Popen[bytes]],
    say: Callable[[str], None],
) -> None:
    began, start, said, before = time.monotonic(), _progress(store, todo), 0.0, -1
    while any(process.poll() is None for process in processes):
        time.sleep(_LOOK_EVERY_S)
        settled = len(todo) - len(store.missing(todo))
        if settled == before and time.monotonic() - said < _SAY_EVERY_S:
            continue
        before, said = settled, time.monotonic()
        moved = _progress(store, todo) - start
        left = "time left unknown"
        if moved > 0:
            left = f"about {(said - began) * (len(todo) - start - moved) / moved / 60:.0f} min left"
        say(f"retraining: {settled} of {len(todo)} runs, {(said - began) / 60:.1f} min, {left}")


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


def _explain(
    store: RetrainStore,
    todo: Sequence[Run],
    processes: Sequence[subprocess.Popen[bytes]],
    logs: Sequence[Path],
) -> None:
    """Raise if runs are left over because workers ended."""
    left = store.missing(todo)
    if not left:
        return
    at, process = next(
        ((at, process) for at, process in enumerate(processes) if process.returncode), (0, processes[0])
    )
    words = logs[at].read_text(errors="replace").strip().splitlines()
    last = words[-1] if words else "it left no message"
    if process.returncode == NO_ROOM:
        raise EvaluationError(str(store.folder), f"cannot be written: {last}; call again to go on")
    raise EvaluationError(
        "retrain worker",
        f"ended with status {process.returncode}, {len(left)} runs left; call again to go on: {last}",
    )
