"""Gradient similarity in a low-rank space, preconditioned and scaled to unit length.

The projection is LoGra's (Choe et al., "What is Your Data Worth to GPT?", 2024); the preconditioned cosine is
TrackStar's (Chang et al., "Scalable Influence and Fact Tracing for Large Language Model Pretraining", 2024).
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from attributary_train.errors import TeacherError
from attributary_train.subject.data import SubjectData
from attributary_train.subject.model import SubjectModel
from attributary_train.subject.queries import Queries
from attributary_train.teacher.gradients import GradientPass, GradientSettings
from attributary_train.teacher.method import Method
from attributary_train.teacher.projection import Projection, TwoSided
from attributary_train.teacher.registry import Context

_LOGRA = GradientSettings(parameters="all")


def fisher_root(features: Tensor, damping: float) -> Tensor:
    """Lower triangular L, float64 [k, k], with L L^T = R = Phi^T Phi / N + lambda I.

    lambda = damping x mean eigenvalue (0.1: Grosse et al., 2023, and LoGra). L^-1 phi has the inner products of
    R^-1/2 phi at a tenth of the cost.
    """
    phi = features.double()
    fisher = phi.T @ phi / len(phi)
    ridge = damping * fisher.trace() / len(fisher)
    if not ridge > 0:
        raise TeacherError("gradients", "are all zero: nothing to compare by")
    fisher.diagonal().add_(ridge)
    root: Tensor = torch.linalg.cholesky(fisher)
    return root


class LoGra(Method):
    """tau(q, i) = cosine of R^-1/2 phi(q) and R^-1/2 phi(i), R the damped empirical Fisher of the projected gradients.

    With `normalise` off the scores are LoGra's inner products: items with large gradients then lead every list.
    """

    name = "logra"

    def __init__(
        self,
        settings: GradientSettings = _LOGRA,
        projection: Projection | None = None,
        damping: float = 0.1,
        normalise: bool = True,
    ) -> None:
        super().__init__()
        if not 0.0 < damping < float("inf"):
            raise TeacherError("damping", f"{damping}; must be above 0")
        self.settings, self.projection = settings, projection or TwoSided()
        self.damping, self.normalise = damping, normalise
        self._state: tuple[GradientPass, Tensor, Tensor] | None = None

    def _prepare(self, data: SubjectData, model: SubjectModel) -> float:
        passing = GradientPass(model, self.settings, self.projection)
        features = torch.cat([part for _, part in passing.of_items(data, np.arange(len(data)))])
        root = fisher_root(features, self.damping)
        stored = self._whitened(features, root)
        self._state = (passing, root, stored)
        return float(stored.numel() * 4)

    def _whitened(self, features: Tensor, root: Tensor) -> Tensor:
        out: Tensor = torch.linalg.solve_triangular(root, features.double().T, upper=False).T
        if self.normalise:
            out = torch.nn.functional.normalize(out, dim=1)
        return out.float()

    def _matrix(self, queries: Queries, rows: npt.NDArray[np.int64]) -> tuple[Tensor, int]:
        assert self._state is not None
        passing, root, stored = self._state
        before = passing.passes
        features = self._whitened(passing.of_queries(queries), root)
        return features @ stored[rows].T, passing.passes - before


def logra(
    context: Context,
    rank: int = 8,
    seed: int = 0,
    damping: float = 0.1,
    normalise: bool = True,
    **gradients: object,
) -> LoGra:
    """Make LoGra; further settings are those of `GradientSettings`."""
    settings = dataclasses.replace(_LOGRA, **gradients)  # type: ignore[arg-type]
    return LoGra(settings, TwoSided(rank, seed), damping, normalise)
