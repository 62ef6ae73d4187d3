"""What stops the label factory: a stop is no death, two starts do not meet, an actor that cannot start is no loop."""

import json
import sys
from importlib import import_module
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from filelock import FileLock, Timeout

from attributary_train import teacher
from attributary_train.errors import TeacherError
from attributary_train.jobs import starts_path
from attributary_train.teacher import label_factory
from attributary_train.teacher.baseline import kept_baseline
from attributary_train.teacher.candidates import CandidateSettings
from attributary_train.teacher.ekfac import Factors, save_factors
from attributary_train.teacher.label_factory import Job, prepare
from attributary_train.teacher.labels import (
    Label,
    LabelSettings,
    Planned,
    errors_of,
    forget_failures,
    read_labels,
    read_plan,
    read_shard,
    shard_path,
    write_facts,
    write_plan,
    write_shard,
)

IDS = np.array([10, 20], np.int64)


def job_in(folder):
    return Job(folder, folder, folder, folder / "queries.parquet", folder)


@pytest.fixture
def planned(tmp_path):
    """A folder of two shards with a query each, nothing labelled."""
    (tmp_path / "locks").mkdir()
    write_plan(tmp_path, [Planned(f"train-{at}", at, IDS, 2) for at in range(2)])
    write_facts(tmp_path, {"schema_version": 1, "weights": "w"})
    pq.write_table(
        pa.table({"name": ["train-0", "train-1"], "split": ["train", "train"]}), tmp_path / "queries.parquet"
    )
    return tmp_path


def test_failed_shards_are_forgotten_and_finished_ones_kept(planned):
    plan = read_plan(planned)
    write_shard(planned, 0, [Label("train-0", "train", IDS, np.zeros(2, np.float32), 2, 1.0, 0.01, None)])
    write_shard(planned, 1, errors_of(plan[1], {"train-1": "train"}, "its worker died 3 times"))
    starts_path(planned / "locks", "00001").write_text("4")
    assert forget_failures(planned) == 1
    assert [label.query for label in read_labels(planned)] == ["train-0"]
    assert not starts_path(planned / "locks", "00001").exists()


def test_one_start_prepares_and_the_other_waits(tmp_path, monkeypatch):
    held = []

    def looks(job, settings, log, device):
        with pytest.raises(Timeout):
            FileLock(job.folder / "locks" / "prepare.lock", is_singleton=False).acquire(timeout=0)
        held.append(True)

    monkeypatch.setattr(label_factory, "_prepare", looks)
    prepare(job_in(tmp_path), LabelSettings(), print)
    assert held == [True]
    (tmp_path / "file").write_text("")
    with pytest.raises(TeacherError, match="file: cannot be used"):
        prepare(job_in(tmp_path / "file"), LabelSettings(), print)


def test_a_shard_size_of_nothing_is_refused():
    with pytest.raises(TeacherError, match="per_shard: 0; must be at least 1"):
        LabelSettings(candidates=CandidateSettings(1, 1), per_shard=0)


def test_settings_keep_the_form_of_older_files():
    told = LabelSettings().to_json()
    assert not {"papers_alpha", "step", "part", "skew", "shared_noise", "span"} & set(told["teacher"])
    assert LabelSettings.from_json(json.loads(json.dumps(told))) == LabelSettings()


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(TeacherError, match=r"factors\.safetensors: cannot be written"):
        save_factors(Factors({}, "w", {}), tmp_path / "file" / "factors.safetensors")
    with pytest.raises(TeacherError, match=r"baseline\.npy: cannot be written"):
        kept_baseline(tmp_path / "file" / "baseline.npy", "a", lambda: torch.zeros(2, 3))


def test_a_baseline_of_something_else_is_taken_anew(tmp_path):
    path, taken = tmp_path / "baseline.npy", []

    def take():
        taken.append(True)
        return torch.full((2, 3), float(len(taken)))

    np.save(path, np.zeros((2, 3), np.float32))
    assert kept_baseline(path, "a", take)[0, 0] == 1.0, "kept without a digest"
    assert kept_baseline(path, "a", take)[0, 0] == 1.0 and len(taken) == 1
    assert kept_baseline(path, "b", take)[0, 0] == 2.0
    np.save(path, np.zeros((2, 3), np.float32))
    assert kept_baseline(path, "b", take)[0, 0] == 3.0, "not the losses that the digest lies beside"


class FakeRay:
    """Actors in this process. `fate` says what a call does: an error to raise, or None to run it."""

    class exceptions:  # noqa: N801
        class RayActorError(Exception):
            pass

        class RayTaskError(Exception):
            pass

    def __init__(self, folder, fate):
        self.folder, self.fate, self.calls = folder, fate, []

    def remote(self, **settings):
        return lambda kind: SimpleNamespace(remote=lambda *words: self.actor())

    def actor(self):
        def call(name):
            return SimpleNamespace(
                remote=lambda *words: (name, *words, len(self.calls), self.calls.append(name))
            )

        return SimpleNamespace(ready=call("ready"), shard=call("shard"))

    def wait(self, running, num_returns):
        assert len(self.calls) < 100, "it would never end"
        return running[:1], running[1:]

    def get(self, call):
        if self.fate(call[0]):
            raise self.exceptions.RayActorError("died")
        if call[0] == "shard":
            rows = [Label(f"train-{call[1]}", "train", IDS, np.zeros(2, np.float32), 2, 1.0, 0.1, None)]
            write_shard(self.folder, call[1], rows)


@pytest.fixture
def on_ray(monkeypatch, planned):
    name = "attributary_train.teacher.label_ray"

    def work(fate, actors=2):
        fake = FakeRay(planned, fate)
        monkeypatch.setitem(sys.modules, "ray", fake)
        monkeypatch.delitem(sys.modules, name, raising=False)
        monkeypatch.delattr(teacher, "label_ray", raising=False)
        import_module(name)._work(job_in(planned), [0, 1], actors, 0.0, lambda line: None)
        return fake

    yield work
    # Whoever wants the real one imports it anew.
    sys.modules.pop(name, None)
    vars(teacher).pop("label_ray", None)


def test_an_actor_that_cannot_start_ends_the_work(on_ray, planned):
    with pytest.raises(TeacherError, match="label actor: died 3 times before it was ready"):
        on_ray(lambda name: name == "ready")
    assert not shard_path(planned, 0).exists(), "no shard is to blame"


def test_a_shard_that_kills_actors_is_given_up_by_the_driver(on_ray, planned):
    fake = on_ray(lambda name: name == "shard")
    assert fake.calls.count("shard") == 6
    errors = [read_shard(shard_path(planned, at))[0].error for at in range(2)]
    assert errors == ["its worker died 3 times"] * 2


def test_actors_that_live_make_all_shards(on_ray, planned):
    on_ray(lambda name: False)
    assert [label.error for label in read_labels(planned)] == [None, None]
