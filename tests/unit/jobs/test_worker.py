"""A worker as a process: SIGTERM stops it in order, kill -9 does not, and the next one goes on either way."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from filelock import FileLock

from attributary_train import jobs


class Letters(jobs.Work):
    """Files `a` and `b`; with `slow` the second is begun and never done."""

    def __init__(self, folder, slow):
        super().__init__(folder)
        self.slow = slow

    def names(self):
        return ["a", "b"]

    def settled(self, name):
        return (self.locks / name).exists()

    def make(self, name):
        if name == "b" and self.slow:
            (self.locks / "begun").touch()
            time.sleep(600)
        (self.locks / name).touch()

    def give_up(self, name, reason):
        (self.locks / name).write_text(reason)


@pytest.mark.parametrize(
    ("number", "status", "starts"), [(signal.SIGTERM, 143, 0), (signal.SIGKILL, -signal.SIGKILL, 1)]
)
def test_a_stop_is_told_from_a_death(tmp_path, number, status, starts):
    worker = subprocess.Popen([sys.executable, __file__, str(tmp_path)])
    while not (tmp_path / "begun").exists():
        assert worker.poll() is None, "ended early"
        time.sleep(0.01)
    worker.send_signal(number)
    assert worker.wait(120) == status
    assert len(list(tmp_path.glob("*.starts"))) == starts
    with FileLock(tmp_path / "b.lock", timeout=0):
        pass  # free, however its holder ended
    assert jobs.serve(lambda: Letters(tmp_path, slow=False)) == 0
    assert (tmp_path / "b").read_text() == ""


if __name__ == "__main__":
    jobs.stop_on_sigterm()
    sys.exit(jobs.serve(lambda: Letters(Path(sys.argv[1]), slow=True)))
