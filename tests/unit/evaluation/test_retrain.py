"""The store of retrained models: nothing trained twice, nothing lost to kill -9, nothing tried for ever."""

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import numpy as np
import psutil
import pytest
import torch

from attributary_train.errors import EvaluationError
from attributary_train.evaluation import retrain_worker
from attributary_train.evaluation.retrain import RetrainStore, without
from attributary_train.evaluation.retrain_pool import retrain
from attributary_train.jobs import MAX_STARTS, Orphaned, attempt
from attributary_train.subject.train import STATE, Run, train_unet
from attributary_train.towers.weights import weights_digest
from tests.unit.evaluation.conftest import work_on


def half(subject, seed=0):
    return np.random.default_rng(seed).random(len(subject.data)) < 0.5


def test_a_run_is_trained_once_whoever_asks(subject, store, brief, train_here):
    run, other = Run(brief, half(subject), 0, 0), Run(brief, half(subject), 1, 0)
    assert [store.digest(entry) for entry in store.missing([run, other, run])] == [
        store.digest(run),
        store.digest(other),
    ]
    train_here(store, [run])
    written = store.path(run).stat().st_mtime_ns
    assert store.missing([run, other]) == [other]
    train_here(store, [run, other])
    assert store.path(run).stat().st_mtime_ns == written
    outcome = retrain(store, [run, other, run])
    assert (outcome.trained, outcome.reused, outcome.failed) == (0, 2, {})
    assert store.facts(run).items == int(run.kept.sum())


@pytest.mark.parametrize("change", ["kept", "seed", "init_seed", "recipe", "latents"])
def test_everything_that_decides_the_weights_names_the_run(subject, store, brief, change):
    run = Run(brief, half(subject), 0, 0)
    other_store, other = store, run
    if change == "kept":
        other = replace(run, kept=half(subject, 1))
    elif change == "recipe":
        other = replace(run, recipe=replace(brief, learning_rate=2e-3))
    elif change == "latents":
        other_store = RetrainStore(store.folder, replace(subject.data, latents=subject.data.latents + 1))
    else:
        other = replace(run, **{change: 1})
    assert other_store.digest(other) != store.digest(run)


@pytest.mark.timeout(900)  # Two worker processes start, and each imports diffusers.
def test_killed_inside_a_run_it_goes_on_and_ends_with_the_same_weights(subject, store):
    recipe = replace(subject.recipe, steps=30)
    runs = [Run(replace(recipe), half(subject, seed), 0, 0) for seed in (0, 1)]
    killed = threading.Thread(target=kill_worker_at, args=(store.work(runs[1]) / STATE,))
    killed.start()
    with pytest.raises(EvaluationError, match=r"status -9, 1 runs left; call again"):
        retrain(store, runs, workers=1, save_every=5)
    killed.join()
    assert [store.done(run) for run in runs] == [True, False]
    first = store.path(runs[0]).stat().st_mtime_ns
    assert 0 < torch.load(store.work(runs[1]) / STATE, weights_only=True)["step"] < recipe.steps
    told = []
    outcome = retrain(store, runs, workers=1, save_every=5, say=told.append)
    assert (outcome.trained, outcome.reused) == (1, 1)
    assert store.path(runs[0]).stat().st_mtime_ns == first
    # On one thread a worker trains what this process does without a break.
    assert store.load(runs[1]).weights == weights_digest(train_unet(runs[1], subject.data))
    assert not store.work(runs[1]).exists()
    assert "0 of 1 runs" in told[0]


@pytest.mark.slow
def test_the_other_worker_takes_over_the_run_of_a_dead_one(subject, store):
    recipe = replace(subject.recipe, steps=30)
    runs = [Run(recipe, half(subject, seed), 0, 0) for seed in (0, 1)]
    killed = threading.Thread(target=kill_worker_at, args=(store.work(runs[1]) / STATE,))
    killed.start()
    outcome = retrain(store, runs, workers=2, save_every=5)
    killed.join()
    assert (outcome.trained, outcome.failed) == (2, {})
    assert store.load(runs[1]).weights == weights_digest(train_unet(runs[1], subject.data))


def test_two_at_a_time_never_train_the_same_run(subject, store, brief):
    """A worker that meets a held lock leaves the run alone, and takes it once the holder is gone."""
    run = Run(brief, half(subject), 0, 0)
    for name in ("locks", "work"):
        (store.folder / name).mkdir(parents=True)
    lock = str(store.folder / "locks" / f"{store.digest(run)}.lock")
    hold = "import sys, filelock; lock = filelock.FileLock(sys.argv[1]); lock.acquire(); print(1, flush=True); input()"
    holder = subprocess.Popen(
        [sys.executable, "-c", hold, lock], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        holder.stdout.readline()
        assert attempt(work_on(store, run), store.digest(run)) is False
        assert not store.done(run)
    finally:
        holder.kill()
        holder.communicate()
    assert attempt(work_on(store, run), store.digest(run)) is True
    assert store.done(run)


def test_a_failing_run_is_recorded_and_the_others_go_on(subject, store, brief, train_here):
    broken = Run(brief, np.zeros(len(subject.data), bool), 0, 0)
    good = Run(brief, half(subject), 0, 0)
    train_here(store, [broken, good])
    outcome = retrain(store, [broken, good], workers=1)
    assert outcome.reused == 1
    assert "no item" in outcome.failed[store.digest(broken)]
    assert store.missing([broken, good]) == []
    with pytest.raises(EvaluationError, match=r"the run failed: .*no item"):
        store.load(broken)
    assert store.forget_failures([broken, good]) == 1
    assert store.missing([broken]) == [broken]


def test_a_run_whose_process_always_dies_is_given_up(subject, store, brief, monkeypatch):
    run = Run(brief, half(subject), 0, 0)
    for name in ("locks", "work"):
        (store.folder / name).mkdir(parents=True)

    class Died(BaseException):
        """Leaves the worker as kill -9 would: nothing is recorded."""

    def dies(*args, **kwargs):
        raise Died

    monkeypatch.setattr(retrain_worker, "train_unet", dies)
    for _ in range(MAX_STARTS):
        assert store.failure(run) is None
        with pytest.raises(Died):
            attempt(work_on(store, run), store.digest(run))
    assert attempt(work_on(store, run), store.digest(run)) is True
    assert "died 3 times" in store.failure(run)


def test_a_worker_ends_when_its_parent_is_gone(store, subject, brief, monkeypatch):
    run = Run(brief, half(subject), 0, 0)
    with pytest.raises(Orphaned):
        attempt(work_on(store, run, parent=-1), store.digest(run))
    (store.folder / "locks").mkdir(parents=True)
    work = work_on(store, run)
    asked = iter([None])  # the parent is there when the run begins, and gone at its first line

    def require_parent():
        if next(asked, "gone"):
            raise Orphaned

    work.require_parent = require_parent
    monkeypatch.setattr(retrain_worker, "train_unet", lambda *words, log, **settings: log("step 1/12"))
    with pytest.raises(Orphaned):
        attempt(work, store.digest(run))
    assert store.missing([run]) == [run] and not list(store.locks.glob("*.starts"))


def test_damaged_weights_are_named(subject, store, brief):
    run = Run(brief, half(subject), 0, 0)
    with pytest.raises(EvaluationError, match="not trained yet"):
        store.load(run)
    store.folder.mkdir(parents=True, exist_ok=True)
    store.save(run, train_unet(run, subject.data), 1.0)
    raw = store.path(run).read_bytes()
    store.path(run).write_bytes(raw[: len(raw) // 2])
    with pytest.raises(EvaluationError, match=r"\.safetensors: not readable"):
        store.load(run)
    changed = bytearray(raw)
    changed[-1] ^= 0x40
    store.path(run).write_bytes(bytes(changed))
    with pytest.raises(EvaluationError, match="not those that were saved"):
        store.load(run)


def test_bad_settings_are_named(subject, store, brief, tmp_path):
    run = Run(brief, half(subject), 0, 0)
    with pytest.raises(EvaluationError, match="workers: 0"):
        retrain(store, [run], workers=0)
    (tmp_path / "file").write_text("")
    with pytest.raises(EvaluationError, match="cannot be written"):
        retrain(RetrainStore(tmp_path / "file", subject.data), [run])
    with pytest.raises(EvaluationError, match="2 recipes"):
        retrain(store, [run, replace(run, recipe=subject.recipe)])


def test_a_full_disk_stops_the_work_and_fails_no_run(subject, store, brief, monkeypatch):
    run = Run(brief, half(subject), 0, 0)
    for name in ("locks", "work"):
        (store.folder / name).mkdir(parents=True)

    def full(*args, **kwargs):
        raise RuntimeError(
            "[enforce fail at inline_container.cc] PytorchStreamWriter failed writing file data/1"
        )

    monkeypatch.setattr(retrain_worker, "train_unet", full)
    with pytest.raises(OSError, match="cannot be written"):
        attempt(work_on(store, run), store.digest(run))
    assert store.failure(run) is None


def test_without_keeps_all_but_the_removed(subject):
    mask = without(subject.data, subject.data.ids[[3, 5]])
    assert np.flatnonzero(~mask).tolist() == [3, 5]


def kill_worker_at(state, seconds=200.0):
    """kill -9 one worker of this process as soon as the checkpoint is there."""
    until = time.monotonic() + seconds
    while not state.exists() and time.monotonic() < until:
        time.sleep(0.01)
    workers = [
        child for child in psutil.Process().children() if "retrain_worker" in " ".join(child.cmdline())
    ]
    os.kill(workers[0].pid, signal.SIGKILL)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_trains_the_same_run_to_the_same_quality(subject, brief):
    run = Run(brief, half(subject), 0, 0)
    here = train_unet(run, subject.data).state_dict()
    there = train_unet(run, subject.data, device="cuda").state_dict()
    assert all(value.device.type == "cpu" for value in there.values())
    for name, value in here.items():
        assert torch.allclose(value, there[name], atol=2e-2), name


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_named(subject, store, brief):
    with pytest.raises(EvaluationError, match="device: cuda:0: no CUDA device is available"):
        retrain(store, [Run(brief, half(subject), 0, 0)], devices=("cuda:0",))
