"""The share of the gap between the best plain features and a teacher that another method closes, on removals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from attributary_train.errors import EvaluationError
from attributary_train.evaluation.leave_k_out import Removal
from attributary_train.evaluation.stats import DRAWS, Interval, percentile_interval, resamples


def best_features(removals: Mapping[str, Removal], features: Sequence[str]) -> str | None:
    """The feature baseline whose removals hurt most on average, or None if there is none."""
    present = [name for name in features if name in removals]
    return max(present, key=lambda name: float(removals[name].loss.mean()), default=None)


def gap_closed(teacher: Removal, features: Removal, method: Removal, *, seed: int = 0) -> Interval:
    """(dL of the method - dL of the features) / (dL of the teacher - dL of the features), means over queries, which are
    resampled together.

    1: as good as the teacher. A gap that some resamples turn around makes the interval infinite: then the ratio says
    nothing. Raises `EvaluationError` if the teacher's removals hurt no more than the features'.
    """
    gap, closed = teacher.loss - features.loss, method.loss - features.loss
    if not gap.mean() > 0:
        raise EvaluationError("gap", f"{gap.mean():.4g}; the teacher is not ahead of the features")
    drawn = resamples(len(gap), DRAWS, seed)
    gaps, parts = gap[drawn].mean(axis=1), closed[drawn].mean(axis=1)
    value = float(closed.mean() / gap.mean())
    if (gaps <= 0).mean() > 0.025:
        return Interval(value, -np.inf, np.inf)
    return percentile_interval(value, (parts / np.where(gaps > 0, gaps, np.nan))[gaps > 0])
