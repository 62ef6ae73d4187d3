"""One worker of the maker: tunes toward one exemplar after another, on one thread.

python -m attributary_train.customization.maker_worker FOLDER [PARENT]. Any number may run on one folder: a lock held
through flock keeps two from the same exemplar, and a shard that is there is never made again.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from attributary_train.corpus import Corpus
from attributary_train.customization.customize import Customizer
from attributary_train.customization.errors import CustomizationError
from attributary_train.customization.plan import LOCKS, Plan, Planned
from attributary_train.customization.rows import load_rows
from attributary_train.customization.shards import write_shard
from attributary_train.subject.errors import SubjectError

# An exemplar whose worker dies this often is given up: it would never end.
MAX_STARTS = 3
ORPHANED = 3
_WAIT_S = 1.0


class Maker:
    """A plan and a model that is ready to be tuned."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.plan = folder, Plan.read(folder)
        self.corpus = Corpus.open(self.plan.paths["corpus"])
        self.customizer = Customizer(Path(self.plan.paths["subject"]), load_rows(folder), self.plan.settings)
        if self.customizer.model.weights != self.plan.weights:
            raise CustomizationError(
                self.plan.paths["subject"], "is another model than the plan was made for"
            )

    def settled(self, entry: Planned) -> bool:
        """Whether the exemplar has its pictures or was given up."""
        return self.plan.shard(self.folder, entry).exists() or failure(self.folder, entry.name) is not None

    def make(self, entry: Planned) -> None:
        """Make one shard; what goes wrong with an exemplar is recorded, not raised."""
        captions = tuple(self.corpus.item(number).caption for number in entry.exemplar.ids)
        try:
            shard = self.customizer.customize(entry, captions)
        except (CustomizationError, SubjectError, ValueError, RuntimeError, MemoryError) as error:
            give_up(self.folder, entry.name, str(error) or repr(error))
        else:
            write_shard(self.plan.shard(self.folder, entry), entry, shard)

    def attempt(self, entry: Planned) -> bool:
        """Make the shard unless it is settled or another process is at it; says whether it is settled."""
        if self.settled(entry):
            return True
        lock = FileLock(self.folder / LOCKS / f"{entry.name}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return False
        try:
            if self.settled(entry):
                return True
            if _count_start(self.folder / LOCKS / f"{entry.name}.starts") > MAX_STARTS:
                give_up(self.folder, entry.name, f"its worker died {MAX_STARTS} times")
            else:
                self.make(entry)
        finally:
            lock.release()
        return True


def failure(folder: Path, name: str) -> str | None:
    """Why an exemplar was given up, or None."""
    try:
        return str(json.loads((folder / LOCKS / f"{name}.failed.json").read_text())["reason"])
    except (OSError, ValueError, KeyError):
        return None


def give_up(folder: Path, name: str, reason: str) -> None:
    """Record that an exemplar cannot be made."""
    path = folder / LOCKS / f"{name}.failed.json"
    part = path.with_suffix(f".{os.getpid()}.part")
    part.write_text(json.dumps({"reason": reason}) + "\n")
    part.replace(path)


def _count_start(path: Path) -> int:
    try:
        starts = int(path.read_text()) + 1
    except (OSError, ValueError):
        starts = 1
    path.write_text(str(starts))
    return starts


def main(folder: str, parent: int | None = None) -> int:
    """Work until every exemplar is settled; returns the exit status."""
    torch.set_num_threads(1)
    maker = Maker(Path(folder))
    while True:
        busy = []
        for entry in maker.plan.planned:
            if parent is not None and os.getppid() != parent:
                return ORPHANED
            if not maker.attempt(entry):
                busy.append(entry)
        if not busy:
            return 0
        # What is left is in the hands of other workers; one of them may die and leave its exemplar behind.
        time.sleep(_WAIT_S)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else None))
