"""TRAK: influence as regression in the space of randomly projected gradients.

Park et al., "TRAK: Attributing Model Behavior at Scale", ICML 2023; on diffusion models as in Georgiev et al., 2023,
and Zheng et al., 2024.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

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
from attributary_train.teacher.projection import Flat, Projection
from attributary_train.teacher.registry import Context

_TRAK = GradientSettings(parameters="all")


def mean_eigenvalue(features: Tensor) -> float:
    """Mean of the non-zero eigenvalues that Phi^T Phi [k, k] can have; features [N, k]."""
    return float(features.double().square().sum()) / min(features.shape)


def kernel_weights(features: Tensor, damping: float) -> Tensor:
    """Rows (Phi^T Phi + lambda I)^-1 phi_i, float32 [N, k], for features Phi [N, k].

    lambda = damping x mean_eigenvalue. Solved in float64 on the smaller side: (Phi^T Phi + l)^-1 Phi^T =
    Phi^T (Phi Phi^T + l)^-1. Raises `TeacherError` if the matrix is not positive definite.
    """
    phi = features.double()
    ridge = damping * mean_eigenvalue(features)
    wide = phi.shape[1] > phi.shape[0]
    gram = phi @ phi.T if wide else phi.T @ phi
    gram.diagonal().add_(ridge)
    factor, failed = torch.linalg.cholesky_ex(gram)
    if failed:
        raise TeacherError("damping", f"{damping}; the kernel is singular with it, choose a larger one")
    solved = torch.cholesky_solve(phi if wide else phi.T, factor)
    return (solved if wide else solved.T).float()


class Trak(Method):
    """tau(q, i) = phi(q)^T (Phi^T Phi + lambda I)^-1 phi(i), phi = projected gradient of the output function.

    With the loss as output function the weighting factor of the paper is 1. `ensemble` adds models trained on the same
    data with other seeds: scores are means over models, each divided by its own scale.
    """

    name = "trak"

    def __init__(
        self,
        settings: GradientSettings = _TRAK,
        projection: Projection | None = None,
        damping: float = 0.1,
        ensemble: Sequence[SubjectModel] = (),
    ) -> None:
        super().__init__()
        self.settings, self.projection = settings, projection or Flat()
        self._damping = _checked_damping(damping)
        self._ensemble = tuple(ensemble)
        self._members: list[tuple[GradientPass, Tensor]] = []
        self._weights: list[Tensor] = []

    @property
    def damping(self) -> float:
        """lambda over the mean eigenvalue; setting it solves the kernel anew and keeps the gradients."""
        return self._damping

    @damping.setter
    def damping(self, value: float) -> None:
        self._damping = _checked_damping(value)
        self._weights = [kernel_weights(features, value) for _, features in self._members]

    def _prepare(self, data: SubjectData, model: SubjectModel) -> float:
        self._members = []
        rows = np.arange(len(data))
        for member in (model, *self._ensemble):
            passing = GradientPass(member, self.settings, self.projection)
            features = torch.cat([part for _, part in passing.of_items(data, rows)])
            self._members.append((passing, features))
        self._weights = [kernel_weights(features, self._damping) for _, features in self._members]
        # Only the solved rows are needed to answer; the features are kept for other dampings.
        return float(sum(weights.numel() * 4 for weights in self._weights))

    def between_items(self, rows: npt.NDArray[np.int64]) -> Tensor:
        """Scores of all items with those of `rows` as queries, float32 [R, N]; no pass of the model."""
        total = torch.zeros(())
        for (_, features), weights in zip(self._members, self._weights, strict=True):
            scale = mean_eigenvalue(features) / len(features)
            total = total + features[torch.from_numpy(rows)] @ weights.T * (scale / len(self._members))
        return total

    def _query_features(self, passing: GradientPass, queries: Queries) -> Tensor:
        return passing.of_queries(queries)

    def _matrix(self, queries: Queries, rows: npt.NDArray[np.int64]) -> tuple[Tensor, int]:
        total = torch.zeros(len(queries), len(rows))
        before = sum(passing.passes for passing, _ in self._members)
        for (passing, features), weights in zip(self._members, self._weights, strict=True):
            # Models of an ensemble have gradients of different size; the kernel is free of it but for this factor.
            scale = mean_eigenvalue(features) / len(features)
            total += self._query_features(passing, queries) @ weights[rows].T * (scale / len(self._members))
        return total, sum(passing.passes for passing, _ in self._members) - before


def choose_damping(
    method: Trak,
    values: Sequence[float],
    queries: Queries,
    candidates: npt.NDArray[np.int64],
    judge: Callable[[npt.NDArray[np.float32]], float],
) -> float:
    """Set the damping whose scores `judge` likes best, on queries that no result is reported on; return it.

    Raises `TeacherError` if a test query is among them: lambda chosen there is how published figures came out too high.
    """
    if "test" in queries.splits:
        raise TeacherError("queries", "hold test queries; damping is chosen on validation queries")
    if not values:
        raise TeacherError("values", "is empty; name at least one damping")
    merits = []
    for value in values:
        method.damping = value
        merits.append(judge(method.score(queries, candidates)))
    method.damping = values[int(np.argmax(merits))]
    return method.damping


def _checked_damping(value: float) -> float:
    if not 0.0 <= value < float("inf"):
        raise TeacherError("damping", f"{value}; must be 0 or more")
    return value


def trak(
    context: Context,
    dim: int = 4096,
    kind: str = "sparse",
    seed: int = 0,
    damping: float = 0.1,
    **gradients: object,
) -> Trak:
    """Make TRAK; further settings are those of `GradientSettings`."""
    settings = dataclasses.replace(_TRAK, **gradients)  # type: ignore[arg-type]
    return Trak(settings, Flat(dim, kind, seed), damping)  # type: ignore[arg-type]
