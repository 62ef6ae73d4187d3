"""The protocol of every attribution method: the same questions, the same answers, so that they can be compared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from attributary_train.subject.data import SubjectData
from attributary_train.subject.model import SubjectModel
from attributary_train.subject.queries import Queries


@dataclass(frozen=True)
class Cost:
    """What a method costs.

    `fit_seconds`: once per model and corpus; `query_seconds`: wall seconds of the last `score` call divided by its
    queries, on `threads` threads; `candidates`: items scored per query in that call; `bytes_per_item`: what is stored
    for each training item; `forward_passes`: U-Net passes of the last call per query (0 where it needs none).
    """

    fit_seconds: float
    query_seconds: float
    candidates: int
    bytes_per_item: float
    forward_passes: int
    threads: int


class Attributor(Protocol):
    """Influence of training items on generated images.

    `fit` is called once; `score` any number of times after it. Scores are comparable within a query only.
    """

    name: str

    def fit(self, data: SubjectData, model: SubjectModel) -> None:
        """Prepare for a model and the data it was trained on."""

    def score(self, queries: Queries, candidates: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Influence of each candidate id on each query: float32 [Q, C], larger = more influential.

        `candidates` are item ids, int64 [C] (the same for all queries) or [Q, C]. Raises `SubjectError` naming an
        id that is not in the training set, `TeacherError` if `queries` come from another model or a score is not
        finite.
        """

    @property
    def cost(self) -> Cost:
        """Cost of what was fitted, and of the last `score` call."""
