"""Everything a student is made from, opened once: the generator with its data, queries, the untuned towers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from attributary_train.errors import StudentError
from attributary_train.evaluation.opening import Subject
from attributary_train.subject.queries import Queries, load_queries
from attributary_train.towers.features import TowerFeatures

from .fitting import Material
from .labelled import Labelled, from_folder, from_score_files, rows_of
from .sight import ItemPictures, Seen, item_pictures, query_pictures, tower_features
from .words import Words, words_of


@dataclass(frozen=True)
class Studio:
    """subject: generator, data, autoencoder, corpus; queries: of every split; tokens: places of a prompt."""

    folder: Path
    subject: Subject
    queries: Queries
    towers: TowerFeatures

    @classmethod
    def open(cls, subject: Path, corpus: Path, queries: Path, cache: Path, threads: int = 1) -> Studio:
        """Raises `SubjectError` or `CorpusError` if the parts are not of one model."""
        found = Subject.open(subject, corpus, cache)
        towers = TowerFeatures(cache / "features", threads=threads)
        return cls(subject, found, load_queries(queries, found.model), towers)

    @property
    def tokens(self) -> int:
        """How many tokens of a prompt are read."""
        return self.words.tokens

    @property
    def words(self) -> Words:
        """How prompts are read."""
        return words_of(self.subject.model, int(self.subject.data.text.shape[1]))

    @property
    def size(self) -> int:
        """Side of a generated picture."""
        return int(self.subject.autoencoder.config.sample_size)

    def labels(self, folder: Path, split: str = "train") -> Labelled:
        """Finished labels of this model and training set, of one split."""
        return from_folder(folder, self.subject.data, self.subject.model.weights, split)

    def scored(self, paths: Sequence[Path]) -> Labelled:
        """Whole lists of training queries from score files of this model and training set."""
        return from_score_files(paths, self.subject.data, self.subject.model.weights, self.queries)

    def pictures(self, queries: Queries) -> npt.NDArray[np.uint8]:
        """Generated pictures, uint8 [Q, S, S, 3]."""
        return query_pictures(queries.latents, self.subject.autoencoder)

    def item_pictures(self, kind: ItemPictures) -> npt.NDArray[np.uint8]:
        """Pictures of the training items, uint8 [N, S, S, 3]."""
        subject = self.subject
        return item_pictures(subject.data, subject.corpus, subject.autoencoder, self.size, kind)

    def see(self, queries: Queries) -> Seen:
        """Tower features of queries."""
        text_states, mask = self._states(queries.prompts, queries.text), self.words.mask(queries.prompts)
        return tower_features(self.towers, self.pictures(queries), text_states, mask)

    def see_items(self, kind: ItemPictures) -> Seen:
        """Tower features of the training items."""
        data = self.subject.data
        text_states, mask = self._states(data.prompts, data.text), self.words.mask(data.prompts)
        return tower_features(self.towers, self.item_pictures(kind), text_states, mask)

    def _states(self, prompts: Sequence[str], known: Tensor) -> Tensor:
        """Token states as `words` reads them: those that are `known`, unless a family's conditions are more."""
        return known.float() if self.subject.model.layout is None else self.words.states(prompts)

    def labelled_queries(self, labels: Labelled) -> Queries:
        """The queries that labels are about, in their order."""
        return self.queries.take(rows_of(labels, self.queries).tolist())

    def material(self, labels: Labelled, items: ItemPictures) -> Material:
        """What a head is fitted to."""
        return Material(self.see(self.labelled_queries(labels)), self.see_items(items), labels)

    def states(self, prompts: Sequence[str]) -> Tensor:
        """Token states of prompts alone, float32 [N, T, D]."""
        return self.words.states(prompts)


def first(labels: Labelled, count: int | None) -> Labelled:
    """The first `count` queries; raises `StudentError` for a count below 1."""
    if count is None:
        return labels
    StudentError.if_below(1, limit=count)
    return labels.take(np.arange(min(count, len(labels))))


def to_tensor(pictures: npt.NDArray[np.uint8]) -> Tensor:
    """uint8 [N, S, S, 3] for torch, in memory of its own."""
    return torch.from_numpy(np.ascontiguousarray(pictures))
