"""A stop of the work is not a death of the run."""

import json
from types import SimpleNamespace

import pytest

from attributary_train.evaluation import retrain_worker
from attributary_train.evaluation.retrain_worker import MAX_STARTS, Orphaned, _train


@pytest.fixture
def store(tmp_path):
    failed = []
    return SimpleNamespace(
        data=None, failed=failed, work=lambda run: tmp_path / "work", fail=lambda run, why: failed.append(why)
    )


@pytest.mark.parametrize(
    "stop",
    [
        Orphaned(),
        KeyboardInterrupt(),
        SystemExit(143),
        OSError(28, "No space left"),
        RuntimeError("PytorchStreamWriter failed writing file data/1"),
    ],
)
def test_a_run_is_not_to_blame_for_a_stop(store, monkeypatch, tmp_path, stop):
    def stops(*args, **kwargs):
        raise stop

    monkeypatch.setattr(retrain_worker, "train_unet", stops)
    for _ in range(MAX_STARTS + 1):
        with pytest.raises(OSError if isinstance(stop, RuntimeError) else type(stop)):
            _train(store, None, {"parent": 0, "save_every": 1}, "cpu")
    assert store.failed == [] and not (tmp_path / "work" / "starts.json").exists()


def test_deaths_before_a_stop_still_count(store, monkeypatch, tmp_path):
    counted = tmp_path / "work" / "starts.json"
    counted.parent.mkdir()
    counted.write_text(json.dumps({"mark": 0, "starts": 2}))

    def stops(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(retrain_worker, "train_unet", stops)
    with pytest.raises(KeyboardInterrupt):
        _train(store, None, {"parent": 0, "save_every": 1}, "cpu")
    assert json.loads(counted.read_text()) == {"mark": 0, "starts": 2}
