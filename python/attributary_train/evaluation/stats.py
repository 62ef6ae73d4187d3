"""Bootstrap intervals: how far a figure could have fallen elsewhere, had other queries or subsets been drawn."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from attributary_train.errors import EvaluationError

Floats = npt.NDArray[np.float64]
DRAWS = 4000
LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure with its percentile bootstrap interval: the `level` share of resamples lies between low and high."""

    value: float
    low: float
    high: float
    level: float = LEVEL

    def above(self, bound: float = 0.0) -> bool:
        """Whether the whole interval lies above the bound."""
        return self.low > bound


def percentile_interval(value: float, resampled: Floats, level: float = LEVEL) -> Interval:
    """Interval from statistics of resamples, float64 [B] (Efron and Tibshirani, 1993, chapter 13)."""
    if not 0.0 < level < 1.0:
        raise EvaluationError("level", f"{level}; must be between 0 and 1")
    low, high = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(value), float(low), float(high), level)


def resamples(count: int, draws: int = DRAWS, seed: int = 0) -> npt.NDArray[np.int64]:
    """Positions drawn with replacement, int64 [draws, count]; the same arguments give the same draws."""
    if count < 1:
        raise EvaluationError("sample", "is empty: there is nothing to draw an interval from")
    return np.random.default_rng((seed, count)).integers(0, count, (draws, count))


def mean_interval(
    values: npt.ArrayLike, *, draws: int = DRAWS, seed: int = 0, level: float = LEVEL
) -> Interval:
    """Mean over the first axis of [S] values with its interval. With one value the interval is that value."""
    sample = _finite(values)
    return percentile_interval(sample.mean(), sample[resamples(len(sample), draws, seed)].mean(axis=1), level)


def paired_interval(
    first: npt.ArrayLike, second: npt.ArrayLike, *, draws: int = DRAWS, seed: int = 0, level: float = LEVEL
) -> Interval:
    """Mean of first - second, both [S] on the same subjects, which are resampled together."""
    one, other = _finite(first), _finite(second)
    if one.shape != other.shape:
        raise EvaluationError("pairs", f"{len(one)} values against {len(other)}; must be the same subjects")
    return mean_interval(one - other, draws=draws, seed=seed, level=level)


def _finite(values: npt.ArrayLike) -> Floats:
    sample = np.asarray(values, np.float64)
    if sample.ndim != 1:
        raise EvaluationError("sample", f"shape {sample.shape}; must have one axis")
    if not len(sample):
        raise EvaluationError("sample", "is empty: there is nothing to draw an interval from")
    if not np.isfinite(sample).all():
        raise EvaluationError("sample", f"{int((~np.isfinite(sample)).sum())} values are not finite")
    return sample
