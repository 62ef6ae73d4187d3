"""One worker of the label factory: loads model, factors and baseline once, then makes shard after shard on one thread.

python -m attributary_train.teacher.label_worker FOLDER [PARENT] [DEVICE]. Any number may run on one folder, on
several machines if they share it: a lock held through flock keeps two from making one shard, and a shard that is
there is never made again.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from attributary_train.corpus import Corpus
from attributary_train.subject.checkpoint import load_subject, training_data
from attributary_train.subject.errors import SubjectError
from attributary_train.subject.queries import Queries, load_queries
from attributary_train.teacher.abu import Abu
from attributary_train.teacher.ekfac import load_factors
from attributary_train.teacher.errors import TeacherError
from attributary_train.teacher.labels import (
    BASELINE,
    FACTORS,
    LOCKS,
    Label,
    LabelSettings,
    Planned,
    errors_of,
    read_facts,
    read_plan,
    shard_path,
    starts_path,
    write_shard,
)
from attributary_train.teacher.query_digest import require_same_queries

# A shard whose worker dies this often is written with an error in every row: it would never end.
MAX_STARTS = 3
_WAIT_S = 1.0


class Labeller:
    """A teacher that is ready to label the queries of a folder."""

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        facts = read_facts(folder)
        paths = {name: Path(value) for name, value in facts["paths"].items()}
        self.folder = folder
        self.plan = read_plan(folder)
        self.settings = LabelSettings.from_json(facts["settings"])
        model = load_subject(paths["subject"])
        if model.weights != facts["weights"]:
            raise TeacherError(str(paths["subject"]), "is another model than the labels were begun with")
        data = training_data(model, paths["subject"], Corpus.open(paths["corpus"]), paths["cache"])
        self.queries: Queries = load_queries(paths["queries"], model)
        require_same_queries(self.queries, facts.get("query_digests"), str(paths["queries"]))
        self.rows = {name: row for row, name in enumerate(self.queries.names)}
        factors = load_factors(folder / FACTORS, model) if (folder / FACTORS).exists() else None
        known = (facts.get("factors") or {}).get("digest")
        if factors is not None and known is not None and factors.digest != known:
            raise TeacherError(str(folder / FACTORS), "holds other factors than the labels were begun with")
        self.teacher = Abu(self.settings.teacher, scratch=folder / "scratch", factors=factors, device=device)
        self.teacher.fit(data, model, baseline=folder / BASELINE)

    def label(self, planned: Planned) -> Label:
        """One query; what goes wrong with it is recorded, not raised."""
        query = self.queries.take([self.rows[planned.query]])
        try:
            scores = self.teacher.score(query, planned.candidates)[0]
        except (TeacherError, SubjectError, ValueError, RuntimeError, MemoryError) as error:
            return errors_of([planned], {planned.query: query.splits[0]}, str(error) or repr(error))[0]
        step = self.teacher.steps[0]
        return Label(
            planned.query,
            query.splits[0],
            planned.candidates,
            scores,
            planned.nearest,
            step.size,
            step.change,
            None,
        )

    def shard(self, number: int) -> None:
        """Make and commit one shard."""
        write_shard(self.folder, number, [self.label(planned) for planned in self.plan[number]])

    def give_up(self, number: int, reason: str) -> None:
        """Commit a shard of errors."""
        splits = dict(zip(self.queries.names, self.queries.splits, strict=True))
        write_shard(self.folder, number, errors_of(self.plan[number], splits, reason))


def main(folder: str, parent: int | None = None, device: str = "cpu") -> int:
    """Work until every shard is there; returns the exit status."""
    torch.set_num_threads(1)
    labeller = Labeller(Path(folder), device)

    def orphaned() -> bool:
        return parent is not None and os.getppid() != parent

    while not orphaned():
        left = [number for number in labeller.plan if not shard_path(labeller.folder, number).exists()]
        if not left:
            return 0
        if not any(_attempt(labeller, number, orphaned) for number in left):
            # The rest is in the hands of other workers; one of them may die and leave its shard behind.
            time.sleep(_WAIT_S)
    return 3


def _attempt(labeller: Labeller, number: int, orphaned: Callable[[], bool]) -> bool:
    lock = FileLock(labeller.folder / LOCKS / f"{number:05d}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    try:
        if orphaned() or shard_path(labeller.folder, number).exists():
            return False
        counter = starts_path(labeller.folder, number)
        try:
            if _count_start(counter) > MAX_STARTS:
                labeller.give_up(number, f"its worker died {MAX_STARTS} times")
            else:
                labeller.shard(number)
        except (KeyboardInterrupt, SystemExit, OSError, TeacherError):
            # Stopped from outside, or no room to write: nothing that the shard is to blame for.
            _uncount_start(counter)
            raise
        return True
    finally:
        lock.release()


def _count_start(path: Path) -> int:
    try:
        starts = int(json.loads(path.read_text())) + 1
    except (OSError, ValueError, TypeError):
        starts = 1
    path.write_text(json.dumps(starts))
    return starts


def _uncount_start(path: Path) -> None:
    # A disk that is full still lets a file go; a torn count is read as none.
    with contextlib.suppress(OSError, ValueError, TypeError):
        starts = int(json.loads(path.read_text())) - 1
        if starts > 0:
            path.write_text(json.dumps(starts))
        else:
            path.unlink()


if __name__ == "__main__":
    # As an exception, so that a stop is told from a death and locks are freed in order.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else None, *sys.argv[3:4]))
