"""What every method does alike: checks of the input, union of candidates, timing, finiteness of the answer."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from attributary_train.errors import TeacherError
from attributary_train.subject.data import SubjectData
from attributary_train.subject.model import SubjectModel
from attributary_train.subject.queries import Queries
from attributary_train.teacher.base import Cost


class Method(ABC):
    """An `Attributor` that scores a set of rows for all queries at once.

    A method fills in `_prepare` and `_matrix`. Where queries have different candidates, their union is scored once and
    each query takes its own from it.
    """

    name = "method"

    def __init__(self) -> None:
        self._fitted: tuple[SubjectData, SubjectModel] | None = None
        self._cost = Cost(0.0, 0.0, 0, 0.0, 0, 1)

    def fit(self, data: SubjectData, model: SubjectModel) -> None:
        """Prepare for a model and the data it was trained on."""
        began = time.perf_counter()
        self._fitted = None
        stored = self._prepare(data, model)
        self._fitted = (data, model)
        self._cost = Cost(time.perf_counter() - began, 0.0, 0, stored / len(data), 0, torch.get_num_threads())

    def score(self, queries: Queries, candidates: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Influence of each candidate id on each query; see `Attributor.score`."""
        data, _ = self._checked(queries)
        began = time.perf_counter()
        wanted = np.asarray(candidates, np.int64)
        if wanted.ndim == 2 and len(wanted) != len(queries):
            raise TeacherError("candidates", f"{len(wanted)} rows for {len(queries)} queries")
        if wanted.ndim not in (1, 2):
            raise TeacherError("candidates", f"{wanted.ndim} dimensions; must be [C] or [Q, C]")
        wanted = np.broadcast_to(wanted, (len(queries), wanted.shape[-1]))
        ids, where = np.unique(wanted, return_inverse=True)
        if not wanted.size:
            return np.zeros(wanted.shape, np.float32)
        scores, passes = self._matrix(queries, data.rows(ids))
        if not torch.isfinite(scores).all():
            row = int((~torch.isfinite(scores)).any(dim=1).nonzero()[0])
            raise TeacherError(f"query {queries.names[row]}", f"{self.name} gave a score that is not finite")
        columns = torch.from_numpy(where.reshape(wanted.shape))
        picked: npt.NDArray[np.float32] = scores.float().gather(1, columns).numpy()
        self._cost = Cost(
            self._cost.fit_seconds,
            (time.perf_counter() - began) / len(queries),
            wanted.shape[1],
            self._cost.bytes_per_item,
            -(-passes // len(queries)),
            torch.get_num_threads(),
        )
        return picked

    @property
    def cost(self) -> Cost:
        """Cost of what was fitted, and of the last `score` call."""
        return self._cost

    def _checked(self, queries: Queries) -> tuple[SubjectData, SubjectModel]:
        if self._fitted is None:
            raise TeacherError(self.name, "score was called before fit")
        _, model = self._fitted
        if queries.weights != model.weights:
            raise TeacherError(
                "queries", f"come from model {queries.weights[:12]}, not from {model.weights[:12]}"
            )
        return self._fitted

    @abstractmethod
    def _prepare(self, data: SubjectData, model: SubjectModel) -> float:
        """Fit; return the bytes that are kept for all items together."""

    @abstractmethod
    def _matrix(self, queries: Queries, rows: npt.NDArray[np.int64]) -> tuple[Tensor, int]:
        """Scores of the rows (sorted, unique) for every query, [Q, U], and the forward passes that it took."""
