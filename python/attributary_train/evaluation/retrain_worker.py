"""One worker of a retraining: walks the to-do list, trains what nobody else trains, on one thread.

python -m attributary_train.evaluation.retrain_worker STORE TODO [DEVICE]. All workers walk the same list; a lock file a
run, held through flock, keeps them apart. The kernel frees it when its holder dies, however it dies, so there is no
lock to clean up and no process id to check.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open

from attributary_train.evaluation.errors import EvaluationError
from attributary_train.evaluation.retrain import RetrainStore
from attributary_train.subject.captions import Captions
from attributary_train.subject.data import SubjectData
from attributary_train.subject.errors import SubjectError
from attributary_train.subject.recipe import Recipe
from attributary_train.subject.train import STATE, Run, train_unet

# A run whose process dies this often without getting any further is given up: it would never end.
MAX_STARTS = 3
STEP_FILE = "step"
# What is written of an item's several captions besides their words.
CAPTION_TENSORS = ("states", "of_item", "shares")
# Exit statuses that the parent explains.
ORPHANED, NO_ROOM = 3, 4
_WAIT_S = 2.0


class Orphaned(Exception):  # noqa: N818 - not an error of the run
    """The process that started this worker is gone."""


def main(store_folder: str, todo_file: str, device: str = "cpu") -> int:
    """Work until every run of the list is finished or failed; returns the exit status."""
    torch.set_num_threads(1)
    todo = json.loads(Path(todo_file).read_text())
    store = RetrainStore(Path(store_folder), load_data_file(Path(todo["data"])))
    recipe = Recipe.from_json(todo["recipe"])
    runs = [run_from_json(recipe, len(store.data), entry) for entry in todo["runs"]]
    try:
        while True:
            busy = [run for run in runs if not _attempt(store, run, todo, device)]
            if not busy:
                return 0
            # What is left is in the hands of other workers; one of them may die and leave its run behind.
            time.sleep(_WAIT_S)
    except Orphaned:
        return ORPHANED
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        print(f"{store.folder}: {error}", file=sys.stderr)  # noqa: T201 - read by the parent
        return NO_ROOM


def _attempt(store: RetrainStore, run: Run, todo: dict[str, Any], device: str = "cpu") -> bool:
    """Train a run if it is neither done, failed nor held by another process; says whether it is settled."""
    _check_parent(todo)
    settled = store.done(run) or store.failure(run) is not None
    if settled:
        return True
    lock = FileLock(store.folder / "locks" / f"{store.digest(run)}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    try:
        if not store.done(run) and store.failure(run) is None:
            _train(store, run, todo, device)
    finally:
        lock.release()
    return True


def _train(store: RetrainStore, run: Run, todo: dict[str, Any], device: str) -> None:
    work = store.work(run)
    work.mkdir(parents=True, exist_ok=True)
    earlier = _count_start(work)
    if earlier is None:
        store.fail(run, f"its process died {MAX_STARTS} times without getting further")
        return
    try:
        _train_from(store, run, todo, device, earlier)
    except (Orphaned, KeyboardInterrupt, SystemExit, OSError):
        # Stopped from outside, or no room to write: nothing that the run is to blame for.
        _uncount_start(work)
        raise


def _train_from(store: RetrainStore, run: Run, todo: dict[str, Any], device: str, earlier: float) -> None:
    work, began = store.work(run), time.monotonic()

    def heard(line: str) -> None:
        _check_parent(todo)
        (work / STEP_FILE).write_text(line.split()[1].split("/")[0])

    def saved(step: int, unet: object, loss: float) -> None:
        _write_seconds(work, earlier + time.monotonic() - began)

    try:
        unet = train_unet(
            run,
            store.data,
            state_dir=work,
            save_every=todo["save_every"],
            log=heard,
            on_step=saved,
            device=device,
        )
    except (SubjectError, ValueError, MemoryError) as error:
        store.fail(run, str(error) or repr(error))
    except RuntimeError as error:
        if "PytorchStreamWriter" in str(error):
            raise OSError(f"a checkpoint cannot be written: {error}") from error
        store.fail(run, str(error))
    else:
        store.save(run, unet, earlier + time.monotonic() - began)


def _count_start(work: Path) -> float | None:
    """Seconds spent on the run before, or None if it has started too often from the very same checkpoint."""
    state, path = work / STATE, work / "starts.json"
    mark = state.stat().st_mtime_ns if state.exists() else 0
    try:
        known = json.loads(path.read_text())
    except (OSError, ValueError):
        known = {"mark": mark, "starts": 0}
    starts = known["starts"] + 1 if known["mark"] == mark else 1
    if starts > MAX_STARTS:
        return None
    path.write_text(json.dumps({"mark": mark, "starts": starts}))
    try:
        return float((work / "seconds").read_text()) if mark else 0.0
    except (OSError, ValueError):
        return 0.0


def _uncount_start(work: Path) -> None:
    # A disk that is full still lets a file go; a torn count is read as none.
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        path = work / "starts.json"
        known = json.loads(path.read_text())
        if known["starts"] > 1:
            path.write_text(json.dumps({**known, "starts": known["starts"] - 1}))
        else:
            path.unlink()


def _write_seconds(work: Path, seconds: float) -> None:
    (work / "seconds").write_text(f"{seconds:.1f}")


def _check_parent(todo: dict[str, Any]) -> None:
    if os.getppid() != todo["parent"]:
        raise Orphaned


def run_to_json(run: Run) -> dict[str, Any]:
    """A run for the to-do list; the recipe stands there once."""
    return {"kept": np.packbits(run.kept).tobytes().hex(), "seed": run.seed, "init_seed": run.init_seed}


def run_from_json(recipe: Recipe, total: int, entry: dict[str, Any]) -> Run:
    """The inverse of `run_to_json` for a training set of `total` items."""
    packed = np.frombuffer(bytes.fromhex(entry["kept"]), np.uint8)
    return Run(recipe, np.unpackbits(packed, count=total).astype(bool), entry["seed"], entry["init_seed"])


def load_data_file(path: Path) -> SubjectData:
    """Read the training set that the parent left for its workers."""
    try:
        with safe_open(path, "pt") as file:
            about = file.metadata()
            parts = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (OSError, SafetensorError) as error:
        raise EvaluationError(str(path), f"not readable, remove it: {error}") from error
    prompts = tuple(json.loads(about["prompts"]))
    captions, start = None, {name[6:]: value for name, value in parts.items() if name.startswith("start.")}
    if "captions" in about:
        levels, told = json.loads(about["captions"])
        captions = Captions(
            tuple(levels), tuple(told), **{name: parts[f"captions.{name}"] for name in CAPTION_TENSORS}
        )
    return SubjectData(
        parts["ids"].numpy(),
        prompts,
        parts["latents"],
        parts["text"],
        parts["empty"],
        about["digest"],
        captions,
        start or None,
    )


if __name__ == "__main__":
    # As an exception, so that a stop is told from a death.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(main(*sys.argv[1:4]))
