"""One worker of the label factory: loads model, factors and baseline once, then makes shard after shard on one thread.

python -m attributary_train.teacher.label_worker FOLDER [PARENT] [DEVICE]. Any number may run on one folder, on
several machines if they share it: a lock held through flock keeps two from making one shard, and a shard that is
there is never made again.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from attributary_train import jobs
from attributary_train.corpus import Corpus
from attributary_train.errors import SubjectError, TeacherError
from attributary_train.subject.checkpoint import load_subject, training_data
from attributary_train.subject.queries import Queries, load_queries
from attributary_train.teacher.abu import Abu
from attributary_train.teacher.ekfac import load_factors
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
    shard_name,
    shard_path,
    write_shard,
)
from attributary_train.teacher.query_digest import require_same_queries


class Labeller(jobs.Work):
    """A teacher that is ready to label the queries of a folder, a shard a piece."""

    def __init__(self, folder: Path, device: str = "cpu", parent: int | None = None) -> None:
        super().__init__(folder / LOCKS, parent)
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
        self.teacher = Abu(
            self.settings.teacher, scratch=paths["cache"] / "factors", factors=factors, device=device
        )
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

    def names(self) -> Sequence[str]:
        """Every shard."""
        return [shard_name(number) for number in self.plan]

    def settled(self, name: str) -> bool:
        """Whether a shard is there, be it of errors."""
        return shard_path(self.folder, int(name)).exists()

    def make(self, name: str) -> None:
        """Make and commit one shard."""
        write_shard(self.folder, int(name), [self.label(planned) for planned in self.plan[int(name)]])

    def give_up(self, name: str, reason: str) -> None:
        """Commit a shard of errors."""
        splits = dict(zip(self.queries.names, self.queries.splits, strict=True))
        write_shard(self.folder, int(name), errors_of(self.plan[int(name)], splits, reason))


def main(folder: str, parent: str | None = None, device: str = "cpu") -> int:
    """Work until every shard is there; returns the exit status."""
    return jobs.serve(lambda: Labeller(Path(folder), device, None if parent is None else int(parent)))


if __name__ == "__main__":
    jobs.stop_on_sigterm()
    sys.exit(main(*sys.argv[1:4]))
