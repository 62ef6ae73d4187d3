"""Opening what is judged: a checkpoint with its data, queries and score files; and training runs for it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from diffusers import AutoencoderKL

from attributary_train.corpus import Corpus
from attributary_train.errors import EvaluationError
from attributary_train.evaluation.ranking import Scores
from attributary_train.evaluation.retrain import RetrainStore, without
from attributary_train.evaluation.retrain_pool import Outcome, retrain
from attributary_train.evaluation.scores import load_scores
from attributary_train.files import reading
from attributary_train.subject.checkpoint import load_autoencoder, load_subject, recipe_of, training_data
from attributary_train.subject.data import SubjectData
from attributary_train.subject.model import SubjectModel
from attributary_train.subject.queries import Queries, load_queries
from attributary_train.subject.recipe import Recipe
from attributary_train.subject.train import Run
from attributary_train.teacher.query_digest import query_digests

Say = Callable[[str], None]


@dataclass(frozen=True)
class Subject:
    """A checkpoint with the data it was trained on."""

    model: SubjectModel
    recipe: Recipe
    data: SubjectData
    autoencoder: AutoencoderKL
    corpus: Corpus

    @classmethod
    def open(cls, folder: Path, corpus_dir: Path, cache: Path) -> Subject:
        """Raises `SubjectError` or `CorpusError` if the folder is no checkpoint or the corpus is another one."""
        cache.mkdir(parents=True, exist_ok=True)
        model, corpus = load_subject(folder), Corpus.open(corpus_dir)
        data = training_data(model, folder, corpus, cache)
        return cls(model, recipe_of(model), data, load_autoencoder(folder), corpus)

    def queries(self, path: Path, split: str, limit: int | None = None) -> Queries:
        """Queries of a split, or `limit` of them spread evenly over it, so that every kind is among them."""
        found = load_queries(path, self.model).split(split)
        if not len(found):
            raise EvaluationError(f"queries.{split}", f"{path} has none")
        if limit is None or limit >= len(found):
            return found
        EvaluationError.if_below(1, limit=limit)
        return found.take(np.unique(np.linspace(0, len(found) - 1, limit).round().astype(int)).tolist())

    def scores(self, paths: Sequence[Path], queries: Queries) -> dict[str, Scores]:
        """Score files by method, aligned with queries and training set; raises `EvaluationError` if one differs."""
        if not paths:
            raise EvaluationError("scores", "no file given")
        out: dict[str, Scores] = {}
        digests = query_digests(queries)
        for path in paths:
            file = load_scores(path, weights=self.model.weights)
            if file.method in out:
                raise EvaluationError("scores", f"two files of method {file.method}; the second is {path}")
            out[file.method] = file.aligned(queries.names, self.data.ids, digests)
        return out


@dataclass(frozen=True)
class Retraining:
    """How runs are trained."""

    store: Path
    workers: int = 2
    save_every: int = 250
    devices: tuple[str, ...] = ("cpu",)
    retry_failed: bool = False

    def run(self, store: RetrainStore, runs: Sequence[Run], say: Say) -> Outcome:
        """Train what is missing."""
        if self.retry_failed:
            store.forget_failures(runs)
        return retrain(
            store, runs, workers=self.workers, save_every=self.save_every, devices=self.devices, say=say
        )


def plan_to_json(subject: Subject, runs: Sequence[Run]) -> dict[str, Any]:
    """Runs as a file that `evaluate retrain --plan` reads, here or on another machine with the same checkpoint."""
    return {
        "weights": subject.model.weights,
        "runs": [
            {
                "removed": [int(number) for number in subject.data.ids[~run.kept]],
                "seed": run.seed,
                "init_seed": run.init_seed,
                "steps": run.recipe.steps,
            }
            for run in runs
        ],
    }


def plan_from_json(subject: Subject, path: Path) -> list[Run]:
    """The inverse of `plan_to_json`; raises `EvaluationError` naming what is wrong in the file."""
    with reading(path, EvaluationError, "not a plan"):
        facts: dict[str, Any] = json.loads(path.read_text())
        weights, entries = facts["weights"], facts["runs"]
        names = [
            (int(e["steps"]), list(map(int, e["removed"])), int(e["seed"]), int(e["init_seed"]))
            for e in entries
        ]
    if weights != subject.model.weights:
        raise EvaluationError(
            str(path), f"planned for model {weights[:12]}, not for {subject.model.weights[:12]}"
        )
    # The recipe is the checkpoint's; only its length may differ between plans (fixed epochs).
    return [
        Run(replace(subject.recipe, steps=steps), without(subject.data, removed), *seeds)
        for steps, removed, *seeds in names
    ]
