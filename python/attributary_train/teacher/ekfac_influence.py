"""EK-FAC influence: the first-order form of AbU+, without taking the step.

tau(q, i) = <F^-1 grad L(q), grad L(i)>: what the loss of item i changes by, to first order, when the query is unlearned
by a natural-gradient step (Grosse et al., 2023; on diffusion models Mlodozeniec et al., ICLR 2025).
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from attributary_train.errors import TeacherError
from attributary_train.subject.data import SubjectData
from attributary_train.subject.model import SubjectModel
from attributary_train.subject.queries import Queries
from attributary_train.teacher.ekfac import Factors, FactorSettings
from attributary_train.teacher.factors import kept_factors
from attributary_train.teacher.gradients import GradientPass, GradientSettings
from attributary_train.teacher.method import Method
from attributary_train.teacher.projection import Whole
from attributary_train.teacher.registry import Context

_EKFAC = GradientSettings()


class EkfacInfluence(Method):
    """Training gradients are made anew for every call and met by all its queries: nothing is stored for an item."""

    name = "ekfac_influence"

    def __init__(
        self,
        scratch: Path,
        settings: GradientSettings = _EKFAC,
        damping: float = 0.1,
        factors: Factors | None = None,
        factor_settings: FactorSettings | None = None,
    ) -> None:
        super().__init__()
        if not 0.0 < damping < float("inf"):
            raise TeacherError("damping", f"{damping}; must be above 0")
        if settings.output != "loss":
            raise TeacherError("output", f"{settings.output!r}; the Fisher is that of the loss")
        self.scratch, self.settings, self.damping = scratch, settings, damping
        self._given = factors
        self._factor_settings = factor_settings or FactorSettings(settings.parameters)
        self._state: tuple[GradientPass, Factors] | None = None

    def _prepare(self, data: SubjectData, model: SubjectModel) -> float:
        passing = GradientPass(model, self.settings, Whole())
        factors = self._given or kept_factors(model, data, self._factor_settings, self.scratch)
        if factors.weights != model.weights:
            raise TeacherError(
                "factors", f"are the Fisher of model {factors.weights[:12]}, not of {model.weights[:12]}"
            )
        missing = [name for name in passing.names if name not in factors.layers]
        if missing:
            raise TeacherError("factors", f"have none for {missing[0]} and {len(missing) - 1} other layers")
        self._state = (passing, factors)
        return float(factors.bytes)

    def _matrix(self, queries: Queries, rows: npt.NDArray[np.int64]) -> tuple[Tensor, int]:
        assert self._state is not None and self._fitted is not None
        passing, factors = self._state
        before = passing.passes
        wanted = factors.precondition(passing.split(passing.of_queries(queries)), self.damping)
        stacked = torch.cat([wanted[name].flatten(1) for name in passing.names], dim=1)
        out = torch.empty(len(queries), len(rows))
        for block, gradients in passing.of_items(self._fitted[0], rows):
            out[:, block] = stacked @ gradients.T
        return out, passing.passes - before


def ekfac_influence(context: Context, damping: float = 0.1, **gradients: object) -> EkfacInfluence:
    """Make it; factors are kept in the context's cache. Further settings are those of `GradientSettings`."""
    settings = dataclasses.replace(_EKFAC, **gradients)  # type: ignore[arg-type]
    return EkfacInfluence(context.cache / "factors", settings, damping)
