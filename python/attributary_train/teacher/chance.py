"""Scores by lot: the floor that every method has to stand above."""

from __future__ import annotations

import hashlib
import time

import numpy as np
import numpy.typing as npt

from attributary_train.errors import TeacherError
from attributary_train.subject.data import SubjectData
from attributary_train.subject.model import SubjectModel
from attributary_train.subject.queries import Queries
from attributary_train.teacher.base import Cost
from attributary_train.teacher.registry import Context


class Chance:
    """Uniform scores from the hash of (seed, query, item): independent of batch, order and subset."""

    name = "random"

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed
        self._data: SubjectData | None = None
        self._cost = Cost(0.0, 0.0, 0, 0.0, 0, 1)

    def fit(self, data: SubjectData, model: SubjectModel) -> None:
        """Remember the ids."""
        self._data = data

    def score(self, queries: Queries, candidates: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """float32 [Q, C] in [0, 1)."""
        if self._data is None:
            raise TeacherError("random", "score was called before fit")
        began = time.perf_counter()
        rows = np.broadcast_to(candidates, (len(queries), candidates.shape[-1]))
        self._data.rows(np.unique(rows))
        out = np.empty(rows.shape, np.float32)
        for at, name in enumerate(queries.names):
            key = hashlib.sha256(f"{self._seed}\t{name}".encode()).digest()
            everything = np.random.default_rng(list(key)).random(len(self._data), np.float32)
            out[at] = everything[self._data.rows(rows[at])]
        seconds = (time.perf_counter() - began) / max(1, len(queries))
        self._cost = Cost(0.0, seconds, rows.shape[1], 0.0, 0, 1)
        return out

    @property
    def cost(self) -> Cost:
        """Next to nothing."""
        return self._cost


def chance(context: Context, seed: int = 0) -> Chance:
    """Make the method; it needs nothing of its context."""
    return Chance(seed)
