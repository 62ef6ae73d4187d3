"""The flag's second half: how far a picture's edges, colours and evenness lie from what the generator makes.

Nothing but generated pictures is fitted to. The choice of statistics was made with foreign kinds in sight
(docs/calibration.md).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from attributary.bundle.manifest import PIXEL_STATISTICS, PixelFlag

from .ood import Floats, margin, threshold

# Fewer pictures than this for each of the statistics tell no covariance.
_PICTURES_EACH = 10
_FOLDS = 10
_LEAST_DEVIATION = 1e-2
_LEAST_VARIANCE = 1e-2


def fit_pixels(statistics: npt.NDArray[np.float32], false_alarms: float) -> PixelFlag:
    """From statistics of generated pictures, float32 [n, D]; an empty flag with fewer than ten times D.

    The limit is cross-conformal (Vovk, 2015); the density that is served is that of all.
    """
    if len(statistics) < _PICTURES_EACH * statistics.shape[1]:
        return PixelFlag()
    density, distances = _density(statistics), _held_out(statistics)
    limit, wide = -threshold(-distances, false_alarms), margin(-distances, false_alarms)
    return PixelFlag(
        density.statistics, density.mean, density.whiten, round(float(limit), 6), round(float(wide), 6)
    )


def fit_density(statistics: npt.NDArray[np.float32], false_alarms: float) -> tuple[PixelFlag, float]:
    """As `fit_pixels`, of any statistics: the density and the limit."""
    return _density(statistics), -threshold(-_held_out(statistics), false_alarms)


def _held_out(statistics: npt.NDArray[np.float32]) -> Floats:
    """Distances that each tenth has from a density of the rest, float64 [n]."""
    folds = np.arange(len(statistics)) % _FOLDS
    distances = np.empty(len(statistics))
    for fold in range(_FOLDS):
        part = folds == fold
        distances[part] = _density(statistics[~part]).distance(statistics[part])
    return distances


def _density(statistics: npt.NDArray[np.float32]) -> PixelFlag:
    """A normal density: mean, and the matrix that makes a picture's statistics uncorrelated and of one scale."""
    values: Floats = statistics.astype(np.float64)
    mean, deviation = values.mean(axis=0), np.maximum(values.std(axis=0), _LEAST_DEVIATION)
    variance, axes = np.linalg.eigh(np.cov(((values - mean) / deviation).T))
    whiten = axes.T / np.sqrt(np.maximum(variance, 0.0) + _LEAST_VARIANCE)[:, None] / deviation
    return PixelFlag(PIXEL_STATISTICS, _rounded(mean), tuple(map(_rounded, whiten)))


def _rounded(row: Floats) -> tuple[float, ...]:
    return tuple(float(f"{one:.6g}") for one in row)
