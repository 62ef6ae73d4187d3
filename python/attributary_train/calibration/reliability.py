"""Is a share of 0.2 a fifth of the mass? Predicted shares against the teacher's, in bins of equally many.

Expected calibration error (Naeini et al., AAAI 2015), here of a regression: bins hold equally many predictions, and the
error is the mean over predictions of |mean predicted - mean observed| in their bin.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from attributary_train.errors import CalibrationError
from attributary_train.evaluation.stats import Interval, percentile_interval, resamples

Floats = npt.NDArray[np.float64]
BINS = 10
_DRAWS = 400


@dataclass(frozen=True)
class Bin:
    """`count` predictions between `low` and `high`: their mean, and the mean of what was observed."""

    low: float
    high: float
    predicted: float
    observed: float
    count: int


@dataclass(frozen=True)
class Reliability:
    """Bins in ascending order, expected calibration error with its interval over queries, mean absolute error."""

    bins: tuple[Bin, ...]
    error: Interval
    absolute: float
    count: int


def reliability(
    predicted: npt.ArrayLike,
    observed: npt.ArrayLike,
    query: npt.ArrayLike,
    *,
    bins: int = BINS,
    seed: int = 0,
) -> Reliability:
    """Compare predictions with observations, all [M]; `query` says whose each is, for the interval."""
    forecast, seen, whose = np.asarray(predicted, float), np.asarray(observed, float), np.asarray(query)
    if not len(forecast):
        raise CalibrationError("predictions", "there are none to compare")
    found = _bins(forecast, seen, bins)
    names, member = np.unique(whose, return_inverse=True)
    rows = [np.flatnonzero(member == at) for at in range(len(names))]
    drawn = []
    for draw in resamples(len(names), _DRAWS, seed):
        chosen = np.concatenate([rows[at] for at in draw])
        drawn.append(_error(_bins(forecast[chosen], seen[chosen], bins)))
    interval = percentile_interval(_error(found), np.array(drawn))
    return Reliability(tuple(found), interval, float(np.abs(forecast - seen).mean()), len(forecast))


def _bins(forecast: Floats, seen: Floats, bins: int) -> list[Bin]:
    order = np.argsort(forecast, kind="stable")
    found = []
    for places in np.array_split(order, min(bins, len(order))):
        values = forecast[places]
        found.append(
            Bin(
                float(values[0]),
                float(values[-1]),
                float(values.mean()),
                float(seen[places].mean()),
                len(places),
            )
        )
    return found


def _error(bins: list[Bin]) -> float:
    count = sum(one.count for one in bins)
    return sum(one.count * abs(one.predicted - one.observed) for one in bins) / count
