"""The label factory: the same shards however it is run, stopped or killed; failures recorded; strangers refused."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from filelock import FileLock

from attributary_train.errors import TeacherError
from attributary_train.jobs import attempt
from attributary_train.teacher import label_worker
from attributary_train.teacher.abu import AbuSettings
from attributary_train.teacher.candidates import CandidateSettings, choose
from attributary_train.teacher.commands import label as label_command
from attributary_train.teacher.ekfac import FactorSettings, load_factors
from attributary_train.teacher.label_factory import Job, make_labels, prepare
from attributary_train.teacher.labels import LabelSettings, read_facts, read_labels, read_plan, shard_path
from attributary_train.teacher.packing import pack_labels
from attributary_train.teacher.query_digest import query_digests
from tests.unit.evaluation.conftest import subject  # noqa: F401

TEACHER = AbuSettings(
    gradient_draws=8,
    timesteps=2,
    target_change=None,
    alpha=1e-4,
    factors=FactorSettings(draws=1, backend="torch"),
)
SETTINGS = LabelSettings(TEACHER, CandidateSettings(nearest=6, outside=4), per_shard=2)


def job_of(subject, folder):  # noqa: F811
    return Job(
        folder,
        subject.subject,
        subject.corpus.root,
        subject.query_file,
        subject.cache,
        ("validation", "test"),
    )


def silent(line):
    pass


def work_here(folder):
    """What a worker process does, in this one."""
    return label_worker.main(str(folder))


def shards(folder):
    return {path.name: path.read_bytes() for path in sorted((folder / "shards").glob("*.parquet"))}


@pytest.fixture(scope="module")
def finished(subject, tmp_path_factory):  # noqa: F811
    folder = tmp_path_factory.mktemp("labels") / "once"
    prepare(job_of(subject, folder), SETTINGS, silent)
    assert work_here(folder) == 0
    return folder


def test_labels_hold_scores_of_near_and_far_candidates(finished, subject):  # noqa: F811
    labels = read_labels(finished, weights=subject.model.weights)
    assert [label.query for label in labels] == list(subject.queries.names)
    for label in labels:
        assert label.error is None and label.nearest == 6
        assert len(set(label.candidates.tolist())) == len(label.scores) == 10
        assert np.isfinite(label.scores).all() and label.step == pytest.approx(1e-4)
    with pytest.raises(TeacherError, match="labels of model"):
        read_labels(finished, weights="0" * 64)


def test_facts_say_who_fitted_the_factors_and_what_the_queries_are(finished, subject, tmp_path):  # noqa: F811
    facts = read_facts(finished)
    factors = load_factors(finished / "factors.safetensors", subject.model)
    assert facts["factors"] == {"backend": "torch", "digest": factors.digest}
    known = dict(zip(subject.queries.names, query_digests(subject.queries), strict=True))
    assert facts["query_digests"] == known
    copy = tmp_path / "copy"
    shutil.copytree(finished, copy)
    for name, wrong, words in (
        ("factors", {"backend": "torch", "digest": "0"}, "holds other factors"),
        ("query_digests", {**known, "test-0000": "0"}, "query test-0000 is another one"),
    ):
        (copy / "labels.json").write_text(json.dumps({**facts, name: wrong}))
        with pytest.raises(TeacherError, match=words):
            label_worker.Labeller(copy)
    # Older folders say neither.
    older = {name: value for name, value in facts.items() if name not in ("factors", "query_digests")}
    (copy / "labels.json").write_text(json.dumps(older))
    label_worker.Labeller(copy)


def test_two_processes_make_the_same_bytes_as_one(finished, subject, tmp_path):  # noqa: F811
    made = make_labels(job_of(subject, tmp_path / "two"), SETTINGS, workers=2, log=silent)
    assert (made.queries, made.failed, made.pairs) == (5, 0, 50)
    assert shards(tmp_path / "two") == shards(finished)
    again = make_labels(job_of(subject, tmp_path / "two"), SETTINGS, workers=2, log=silent)
    assert again.pairs == 0 and again.queries == 5


def test_a_worker_that_is_killed_loses_nothing(finished, subject, tmp_path):  # noqa: F811
    folder = tmp_path / "killed"
    prepare(job_of(subject, folder), SETTINGS, silent)
    first = subprocess.Popen(
        [sys.executable, "-m", "attributary_train.teacher.label_worker", str(folder)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    deadline = time.monotonic() + 240
    while not list((folder / "shards").glob("*.parquet")) and time.monotonic() < deadline:
        time.sleep(0.01)
    first.send_signal(signal.SIGKILL)
    first.wait()
    before = shards(folder)
    assert before and len(before) < 3, "the worker was to be killed between two shards"
    assert work_here(folder) == 0
    assert shards(folder) == shards(finished)


def test_a_part_left_by_a_kill_inside_a_write_is_not_a_shard(finished, subject, tmp_path):  # noqa: F811
    folder = tmp_path / "torn"
    prepare(job_of(subject, folder), SETTINGS, silent)
    whole = shard_path(finished, 0).read_bytes()
    (folder / "shards" / "00000.parquet.77.part").write_bytes(whole[: len(whole) // 2])
    assert work_here(folder) == 0
    assert shards(folder) == shards(finished)


def test_a_query_that_fails_is_recorded_and_the_rest_goes_on(subject, tmp_path, monkeypatch):  # noqa: F811
    folder = tmp_path / "failing"
    prepare(job_of(subject, folder), SETTINGS, silent)
    labeller = label_worker.Labeller(folder)
    real = labeller.teacher.score

    def score(query, candidates):
        if query.names[0] == "test-0001":
            raise TeacherError("gradient of query test-0001", "not finite")
        return real(query, candidates)

    monkeypatch.setattr(labeller.teacher, "score", score)
    for name in labeller.names():
        labeller.make(name)
    failed = {label.query: label.error for label in read_labels(folder) if label.error}
    assert failed == {"test-0001": "gradient of query test-0001: not finite"}
    made = make_labels(job_of(subject, folder), SETTINGS, log=silent)
    assert (made.queries, made.failed, made.pairs) == (5, 1, 0)


def test_a_shard_that_kills_its_workers_is_given_up(subject, tmp_path):  # noqa: F811
    folder = tmp_path / "poison"
    prepare(job_of(subject, folder), SETTINGS, silent)
    (folder / "locks" / "00001.starts").write_text("3")
    assert work_here(folder) == 0
    errors = [label.error for label in read_labels(folder)]
    assert errors == [None, None, "its worker died 3 times", "its worker died 3 times", None]


def test_a_shard_in_the_hands_of_another_is_left_alone(subject, tmp_path):  # noqa: F811
    folder = tmp_path / "shared"
    prepare(job_of(subject, folder), SETTINGS, silent)
    labeller = label_worker.Labeller(folder)
    with FileLock(folder / "locks" / "00000.lock"):
        assert not attempt(labeller, "00000")
    assert attempt(labeller, "00000") and shard_path(folder, 0).exists()


def test_a_folder_goes_on_with_its_own_settings_only(finished, subject):  # noqa: F811
    other = replace(SETTINGS, candidates=CandidateSettings(3, 3))
    with pytest.raises(TeacherError, match="another value of settings"):
        make_labels(job_of(subject, finished), other, log=silent)
    with pytest.raises(TeacherError, match="another value of splits"):
        make_labels(replace(job_of(subject, finished), splits=("test",)), SETTINGS, log=silent)
    with pytest.raises(TeacherError, match="no query of train"):
        make_labels(replace(job_of(subject, finished / "x"), splits=("train",)), SETTINGS, log=silent)


def test_damage_is_named(finished, tmp_path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(finished, copy)
    shard_path(copy, 1).write_bytes(b"PAR1 and nothing more")
    with pytest.raises(TeacherError, match=r"00001\.parquet: damaged"):
        read_labels(copy)
    (copy / "plan.parquet").write_bytes(b"")
    with pytest.raises(TeacherError, match="not a plan"):
        read_plan(copy)
    facts = json.loads((copy / "labels.json").read_text())
    (copy / "labels.json").write_text(json.dumps({**facts, "schema_version": 9}))
    with pytest.raises(TeacherError, match="schema version 9"):
        read_labels(copy)


def test_candidates_are_nearest_and_random_and_depend_on_the_query_alone():
    ids = np.arange(100, 150)
    similarity = np.linspace(0, 1, 50, dtype=np.float32)
    settings = CandidateSettings(nearest=5, outside=10)
    first = choose("q", similarity, ids, settings)
    assert first[:5].tolist() == [149, 148, 147, 146, 145]
    assert len(set(first.tolist())) == 15
    assert np.array_equal(first, choose("q", similarity, ids, settings))
    assert not np.array_equal(first, choose("r", similarity, ids, settings))
    assert np.array_equal(choose("q", similarity, ids, CandidateSettings(0, 0)), ids)
    assert len(choose("q", similarity, ids, CandidateSettings(40, 40))) == 50
    with pytest.raises(TeacherError, match=r"candidates\.nearest: -1"):
        CandidateSettings(nearest=-1)


def test_command_labels_and_refuses(subject, tmp_path):  # noqa: F811
    words = ["--subject", subject.subject, "--corpus", subject.corpus.root, "--queries", subject.query_file]
    words = [
        *map(str, words),
        "--cache",
        str(subject.cache),
        "--out",
        str(tmp_path / "out"),
        "--split",
        "test",
    ]
    few = ["--nearest", "3", "--outside", "2", "--gradient-draws", "8", "--timesteps", "2", "--limit", "2"]
    run = CliRunner().invoke(label_command, [*words, *few, "--workers", "1", "--target-change", "0.02"])
    assert run.exit_code == 0, run.output
    assert "2 labels, 0 failed" in run.output
    assert pq.read_table(tmp_path / "out" / "shards" / "00000.parquet").num_rows == 2
    bad = CliRunner().invoke(label_command, [*words, "--target-change", "-1"])
    assert bad.exit_code == 1 and "target_change: -1.0" in bad.output
    bad = CliRunner().invoke(label_command, [*words, *few, "--workers", "0", "--target-change", "0.02"])
    assert bad.exit_code == 1 and "workers: 0" in bad.output


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_ray_makes_the_same_bytes_with_an_actor_killed(finished, subject, tmp_path, monkeypatch):  # noqa: F811
    ray = pytest.importorskip("ray", reason="Ray is not installed")
    from attributary_train.teacher import label_ray

    class Fragile(label_ray._Actor):
        def shard(self, number):
            marker = tmp_path / "died"
            if number == 1 and not marker.exists():
                marker.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return super().shard(number)

    monkeypatch.setattr(label_ray, "_Actor", Fragile)
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        made = label_ray.label_on_ray(job_of(subject, tmp_path / "ray"), SETTINGS, actors=2, log=silent)
    finally:
        ray.shutdown()
    assert (tmp_path / "died").exists()
    assert (made.queries, made.failed) == (5, 0)
    assert shards(tmp_path / "ray") == shards(finished)


def test_packed_labels_are_the_same_labels_and_name_no_machine(finished, subject, tmp_path):  # noqa: F811
    assert pack_labels(finished, tmp_path / "packed") == len(subject.queries)
    packed = read_labels(tmp_path / "packed", weights=subject.model.weights)
    for label, kept in zip(read_labels(finished), packed, strict=True):
        assert (label.query, label.split, label.nearest, label.step) == (
            kept.query,
            kept.split,
            kept.nearest,
            kept.step,
        )
        assert (label.candidates == kept.candidates).all() and (label.scores == kept.scores).all()
    assert read_facts(tmp_path / "packed")["settings"] == read_facts(finished)["settings"]
    assert str(subject.root) not in (tmp_path / "packed" / "labels.json").read_text()
    assert sorted(path.name for path in (tmp_path / "packed").rglob("*")) == [
        "00000.parquet",
        "labels.json",
        "shards",
    ]
    with pytest.raises(TeacherError, match="exists"):
        pack_labels(finished, tmp_path / "packed")


def test_unfinished_labels_are_not_packed(finished, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(finished, copy)
    next((copy / "shards").glob("*.parquet")).unlink()
    with pytest.raises(TeacherError, match="not labelled yet"):
        pack_labels(copy, tmp_path / "packed")
