"""The supervisor: workers that die, stop or outlive it, with real processes of a kind that imports next to nothing."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from attributary_train.errors import TrainError
from attributary_train.jobs import Crew, supervise

# A worker of files: it makes `a`, `b` and `c`, and says so. What a file named after a piece holds, it does first.
WORKER = """
import os, signal, sys, time
from pathlib import Path
folder, parent, device = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
(folder / f"device-{device}").touch()
for name in "abc":
    order = folder / f"{name}.order"
    if order.exists():
        exec(order.read_text())
    (folder / f"{name}.made").touch()
"""
WAIT = "while os.getppid() == parent: time.sleep(0.01)\nsys.exit(3)"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "jobs_test_worker.py").write_text(WORKER)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
    return tmp_path


def left(folder):
    return sum(not (folder / f"{name}.made").exists() for name in "abc")


def run(folder, workers=1, say=lambda line: None):
    crew = Crew(
        "test worker", "jobs_test_worker", (str(folder),), workers, ("cpu", "gpu"),
        logs=folder, pieces="letters", unit="letters", total=3, error=TrainError,
    )  # fmt: skip
    supervise(crew, lambda: 3 - left(folder), lambda: left(folder), say)


def wait_for(path: Path, process=None):
    """Until a file is there: an event, whatever time it takes; a process that ends without it fails the test."""
    while not path.exists():
        assert process is None or process.poll() is None, "ended early"
        time.sleep(0.01)


def test_all_is_made_and_nothing_left_lying(folder):
    told = []
    run(folder, workers=2, say=told.append)
    assert left(folder) == 0
    assert sorted(path.name for path in folder.glob("device-*")) == ["device-cpu", "device-gpu"]
    assert not list(folder.glob("*.log"))


@pytest.mark.parametrize(
    ("order", "words"),
    [
        (
            "os.kill(os.getpid(), signal.SIGKILL)",
            "status -9, 2 letters left; call again to go on: it left no message",
        ),
        (
            "print('/disk: no space', file=sys.stderr); sys.exit(4)",
            "status 4, 2 letters left; .*: /disk: no space",
        ),
        ("sys.exit(143)", "status 143, 2 letters left"),
    ],
)
def test_workers_that_end_early_are_told_of(folder, order, words):
    (folder / "b.order").write_text(order)
    with pytest.raises(TrainError, match=f"test worker: ended with {words}"):
        run(folder)
    assert len(list(folder.glob("*.log"))) == 1, "for reading"
    (folder / "b.order").unlink()
    run(folder)
    assert left(folder) == 0


def test_one_that_dies_is_no_matter_where_another_does_the_work(folder):
    (folder / "b.order").write_text("if device == 'cpu': os.kill(os.getpid(), signal.SIGKILL)")
    run(folder, workers=2)
    assert left(folder) == 0


def test_workers_end_with_a_supervisor_that_is_interrupted(folder):
    (folder / "b.order").write_text("(folder / 'begun').touch()\n" + WAIT)

    # A shell without job control starts what it puts behind with interrupts ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    def interrupt():
        wait_for(folder / "begun")
        os.kill(os.getpid(), signal.SIGINT)

    stop = threading.Thread(target=interrupt)
    stop.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            run(folder)
    finally:
        signal.signal(signal.SIGINT, before)
    stop.join()
    assert not [child for child in psutil.Process().children() if "jobs_test_worker" in child.cmdline()]


def test_workers_end_with_a_supervisor_that_is_killed(folder):
    note = "(folder / 'pid').write_text(str(os.getpid())); (folder / 'pid').rename(folder / 'begun')"
    (folder / "b.order").write_text(f"{note}\n{WAIT}")
    supervisor = subprocess.Popen([sys.executable, __file__, str(folder)])
    wait_for(folder / "begun", supervisor)
    worker = psutil.Process(int((folder / "begun").read_text()))
    supervisor.kill()
    supervisor.wait()
    worker.wait(timeout=120)
    assert left(folder) == 2


def test_a_folder_for_logs_that_cannot_be_written_is_named(folder):
    crew = Crew("k", "m", (), 1, ("cpu",), folder / "none", "p", "u", 1, TrainError)
    with pytest.raises(TrainError, match=r"none/worker-.*log: cannot be written"):
        supervise(crew, lambda: 0, lambda: 1, print)


if __name__ == "__main__":
    run(Path(sys.argv[1]))
