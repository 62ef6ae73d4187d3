"""One worker of the maker: tunes toward one exemplar after another, on one thread.

python -m attributary_train.customization.maker_worker FOLDER [PARENT]. Any number may run on one folder, and a shard
that is there is never made again.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from attributary_train import jobs
from attributary_train.corpus import Corpus
from attributary_train.customization.customize import Customizer
from attributary_train.customization.plan import LOCKS, Plan
from attributary_train.customization.rows import load_rows
from attributary_train.customization.shards import write_shard
from attributary_train.errors import CustomizationError, SubjectError
from attributary_train.files import write_text


class Maker(jobs.Work):
    """A plan and a model that is ready to be tuned, an exemplar a piece."""

    def __init__(self, folder: Path, parent: int | None = None) -> None:
        super().__init__(folder / LOCKS, parent)
        self.folder, self.plan = folder, Plan.read(folder)
        self.corpus = Corpus.open(self.plan.paths["corpus"])
        self.customizer = Customizer(Path(self.plan.paths["subject"]), load_rows(folder), self.plan.settings)
        if self.customizer.model.weights != self.plan.weights:
            raise CustomizationError(
                self.plan.paths["subject"], "is another model than the plan was made for"
            )
        self.planned = {entry.name: entry for entry in self.plan.planned}

    def names(self) -> Sequence[str]:
        """Every exemplar."""
        return list(self.planned)

    def settled(self, name: str) -> bool:
        """Whether the exemplar has its pictures or was given up."""
        shard = self.plan.shard(self.folder, self.planned[name])
        return shard.exists() or failure(self.folder, name) is not None

    def make(self, name: str) -> None:
        """Make one shard; what goes wrong with an exemplar is recorded, not raised."""
        entry = self.planned[name]
        captions = tuple(self.corpus.item(number).caption for number in entry.exemplar.ids)
        try:
            shard = self.customizer.customize(entry, captions)
        except (CustomizationError, SubjectError, ValueError, RuntimeError, MemoryError) as error:
            self.give_up(name, str(error) or repr(error))
        else:
            write_shard(self.plan.shard(self.folder, entry), entry, shard)

    def give_up(self, name: str, reason: str) -> None:
        """Record that an exemplar cannot be made."""
        write_text(_failed(self.folder, name), json.dumps({"reason": reason}) + "\n", CustomizationError)


def failure(folder: Path, name: str) -> str | None:
    """Why an exemplar was given up, or None."""
    try:
        return str(json.loads(_failed(folder, name).read_text())["reason"])
    except (OSError, ValueError, KeyError):
        return None


def _failed(folder: Path, name: str) -> Path:
    return folder / LOCKS / f"{name}.failed.json"


def main(folder: str, parent: str | None = None, device: str = "cpu") -> int:
    """Work until every exemplar is settled; returns the exit status. On the CPU, whatever `device` says."""
    return jobs.serve(lambda: Maker(Path(folder), None if parent is None else int(parent)))


if __name__ == "__main__":
    jobs.stop_on_sigterm()
    sys.exit(main(*sys.argv[1:4]))
