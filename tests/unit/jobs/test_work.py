"""Pieces of work: a stop is no death, deaths are counted, two processes never make the same piece."""

import json

import pytest
from filelock import FileLock

from attributary_train.errors import TrainError
from attributary_train.jobs import MAX_STARTS, ORPHANED, STOPPED, Orphaned, Work, attempt, serve, starts_path


class Pieces(Work):
    """Two pieces that `does` is called with; what is settled stands in `told`."""

    def __init__(self, folder, does=lambda name: None, parent=None):
        super().__init__(folder, parent)
        self.does, self.told, self.further = does, {}, 0

    def names(self):
        return ["a", "b"]

    def settled(self, name):
        return name in self.told

    def make(self, name):
        self.does(name)
        self.told[name] = "made"

    def give_up(self, name, reason):
        self.told[name] = reason

    def mark(self, name):
        return self.further


class Died(BaseException):
    """Leaves the worker as kill -9 would: nothing is recorded."""


def raising(error):
    def does(name):
        raise error

    return does


STOPS = [
    Orphaned(),
    KeyboardInterrupt(),
    SystemExit(143),
    OSError(28, "No space left"),
    TrainError("x", "full"),
]


@pytest.mark.parametrize("stop", STOPS)
def test_a_piece_is_not_to_blame_for_a_stop(tmp_path, stop):
    work = Pieces(tmp_path, raising(stop))
    for _ in range(MAX_STARTS + 1):
        with pytest.raises(type(stop)):
            attempt(work, "a")
    assert not starts_path(tmp_path, "a").exists() and not work.told


@pytest.mark.parametrize("before", ["2", json.dumps({"mark": 0, "starts": 2})])
def test_deaths_before_a_stop_still_count(tmp_path, before):
    starts_path(tmp_path, "a").write_text(before)
    with pytest.raises(KeyboardInterrupt):
        attempt(Pieces(tmp_path, raising(KeyboardInterrupt())), "a")
    assert json.loads(starts_path(tmp_path, "a").read_text())["starts"] == 2


@pytest.mark.parametrize("death", [Died(), AttributeError()])
def test_a_piece_that_kills_its_workers_is_given_up(tmp_path, death):
    work = Pieces(tmp_path, raising(death))
    for _ in range(MAX_STARTS):
        assert not work.told
        with pytest.raises(type(death)):
            attempt(work, "a")
    assert attempt(work, "a")
    assert work.told == {"a": "its worker died 3 times"}
    assert not starts_path(tmp_path, "a").exists(), "asked for again, it is tried again"


def test_a_piece_that_gets_further_each_time_is_never_given_up(tmp_path):
    work = Pieces(tmp_path, raising(Died()))
    for work.further in range(3 * MAX_STARTS):
        with pytest.raises(Died):
            attempt(work, "a")
    assert not work.told


@pytest.mark.parametrize("torn", ["", "{", '{"starts": 1}', "null"])
def test_a_torn_count_is_none(tmp_path, torn):
    starts_path(tmp_path, "a").write_text(torn)
    assert attempt(Pieces(tmp_path), "a")


def test_what_is_settled_or_in_the_hands_of_another_is_left_alone(tmp_path):
    work = Pieces(tmp_path, raising(AssertionError("made twice")))
    work.told["a"] = "made"
    assert attempt(work, "a")
    with FileLock(tmp_path / "b.lock"):
        assert not attempt(work, "b")


def test_a_worker_makes_what_is_left_and_waits_for_the_rest(tmp_path, monkeypatch):
    held, slept = FileLock(tmp_path / "a.lock"), []
    held.acquire()

    def sleeps(seconds):
        slept.append(dict(work.told))
        held.release()

    monkeypatch.setattr("attributary_train.jobs.worker.time.sleep", sleeps)
    work = Pieces(tmp_path)
    assert serve(lambda: work) == 0
    assert slept == [{"b": "made"}] and work.told == {"a": "made", "b": "made"}


@pytest.mark.parametrize(
    ("stop", "status"),
    [(Orphaned(), ORPHANED), (KeyboardInterrupt(), 130), *((e, STOPPED) for e in STOPS[3:])],
)
def test_how_a_worker_ends_is_in_its_status(tmp_path, capsys, stop, status):
    assert serve(lambda: Pieces(tmp_path, raising(stop))) == status
    assert (capsys.readouterr().err != "") == (status == STOPPED)
    assert serve(lambda: Pieces(tmp_path, parent=-1)) == ORPHANED
