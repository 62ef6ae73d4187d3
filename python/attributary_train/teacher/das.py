"""DAS: how far a training item pushes the model's answer for a query, in TRAK's kernel.

Lin et al., "Diffusion Attribution Score", ICLR 2025: the output is the answer itself instead of a loss, and an item
weighs as much as the model still errs on it. Here the answer's mean is differentiated and averaged over timesteps.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
from torch import Tensor

from attributary_train.subject.data import SubjectData
from attributary_train.subject.model import SubjectModel
from attributary_train.subject.queries import Queries
from attributary_train.teacher.draws import LossGrid
from attributary_train.teacher.gradients import GradientSettings
from attributary_train.teacher.moved import losses
from attributary_train.teacher.projection import Flat
from attributary_train.teacher.registry import Context
from attributary_train.teacher.trak import Trak

_DAS = GradientSettings(parameters="all", output="mean", timesteps=10, mirrored=False)


class Das(Trak):
    """tau(q, i) = (phi(q)^T (Phi^T Phi + lambda I)^-1 phi(i))^2 r_i, r_i the item's mean loss."""

    name = "das"

    def _prepare(self, data: SubjectData, model: SubjectModel) -> float:
        stored = super()._prepare(data, model)
        grid = LossGrid.of(model, data, self.settings.timesteps, self.settings.draw)
        self._errors = losses(model, data, grid, np.arange(len(data))).mean(dim=1)
        return stored + 4.0 * len(data)

    def _matrix(self, queries: Queries, rows: npt.NDArray[np.int64]) -> tuple[Tensor, int]:
        kernel, passes = super()._matrix(queries, rows)
        return kernel.square() * self._errors[rows], passes


def das(
    context: Context,
    dim: int = 4096,
    kind: str = "sparse",
    seed: int = 0,
    damping: float = 0.1,
    **gradients: object,
) -> Das:
    """Make DAS; further settings are those of `GradientSettings`."""
    settings = dataclasses.replace(_DAS, **gradients)  # type: ignore[arg-type]
    return Das(settings, Flat(dim, kind, seed), damping)  # type: ignore[arg-type]
