"""One worker of a retraining: trains what nobody else trains, on one thread.

python -m attributary_train.evaluation.retrain_worker STORE TODO [PARENT] [DEVICE]. All workers walk the same list.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from attributary_train import jobs
from attributary_train.errors import SubjectError
from attributary_train.evaluation.retrain import RetrainStore
from attributary_train.evaluation.retrain_todo import Todo, read_todo
from attributary_train.subject.train import STATE, train_unet

STEP_FILE = "step"


class Retraining(jobs.Work):
    """A store and the runs to do, a run a piece: it goes on from its last checkpoint."""

    def __init__(
        self, store: RetrainStore, todo: Todo, device: str = "cpu", parent: int | None = None
    ) -> None:
        super().__init__(store.locks, parent)
        self.store, self.save_every, self.device = store, todo.save_every, device
        self.runs = {store.digest(run): run for run in todo.runs}

    def names(self) -> Sequence[str]:
        """Digests of the runs."""
        return list(self.runs)

    def settled(self, name: str) -> bool:
        """Whether a run is finished or failed."""
        run = self.runs[name]
        return self.store.done(run) or self.store.failure(run) is not None

    def mark(self, name: str) -> int:
        """When the run's checkpoint was written, 0 without one."""
        state = self.store.work(self.runs[name]) / STATE
        return state.stat().st_mtime_ns if state.exists() else 0

    def give_up(self, name: str, reason: str) -> None:
        """Record that a run failed."""
        self.store.fail(self.runs[name], reason)

    def make(self, name: str) -> None:
        """Train a run; what goes wrong with it is recorded, not raised."""
        run = self.runs[name]
        work, began = self.store.work(run), time.monotonic()
        work.mkdir(parents=True, exist_ok=True)
        earlier = _seconds(work) if self.mark(name) else 0.0

        def heard(line: str) -> None:
            self.require_parent()
            (work / STEP_FILE).write_text(line.split()[1].split("/")[0])

        def saved(step: int, unet: object, loss: float) -> None:
            (work / _SECONDS).write_text(f"{earlier + time.monotonic() - began:.1f}")

        try:
            unet = train_unet(
                run,
                self.store.data,
                state_dir=work,
                save_every=self.save_every,
                log=heard,
                on_step=saved,
                device=self.device,
            )
        except (SubjectError, ValueError, MemoryError) as error:
            self.give_up(name, str(error) or repr(error))
        except RuntimeError as error:
            if "PytorchStreamWriter" in str(error):
                raise OSError(f"a checkpoint cannot be written: {error}") from error
            self.give_up(name, str(error))
        else:
            self.store.save(run, unet, earlier + time.monotonic() - began)


# Beside a checkpoint: what it took to get there.
_SECONDS = "seconds"


def _seconds(work: Path) -> float:
    try:
        return float((work / _SECONDS).read_text())
    except (OSError, ValueError):
        return 0.0


def main(folder: str, todo_file: str, parent: str | None = None, device: str = "cpu") -> int:
    """Work until every run of the list is finished or failed; returns the exit status."""

    def opened() -> Retraining:
        todo = read_todo(Path(todo_file))
        store = RetrainStore(Path(folder), todo.data)
        return Retraining(store, todo, device, None if parent is None else int(parent))

    return jobs.serve(opened)


if __name__ == "__main__":
    jobs.stop_on_sigterm()
    sys.exit(main(*sys.argv[1:5]))
