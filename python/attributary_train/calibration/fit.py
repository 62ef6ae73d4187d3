"""Fitting the share formula to a teacher's mass.

Three numbers for each kind of query (with and without prompt): temperature, background, threshold. The loss is the log
loss of the teacher's mass, the diffuse part included:

    loss = - mean over queries of ( sum_i weight_i mass_i log share_i + diffuse log diffuse_share )

with every share mixed with a little of the uniform one, so that an exact zero where the teacher sees mass costs much
and not everything. It is least where a share is the expected mass (a proper score; Gneiting and Raftery, 2007). The
published score is fitted to known exemplars in the same way (Wang et al., ICCV 2023).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize  # type: ignore[import-untyped]

from attributary.bundle.manifest import ShareCalibration

from .errors import CalibrationError
from .mass import Mass
from .shares import Columns, Floats, shares_of

# How much of the uniform share is mixed in, for the loss only.
MIXED = 1e-3
MIN_QUERIES = 10
_TEMPERATURES = (0.02, 0.05, 0.1, 0.2)
_BACKGROUNDS = (0.5, 0.75, 0.9, 0.97)  # quantiles of the cosines, of all queries and items
THRESHOLDS = (0.0, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2)


@dataclass(frozen=True)
class Target:
    """What shares are fitted to: masses of the queries, on the columns of the similarity matrix.

    `mass`: float64 [Q, N], each candidate's mass times the items it stands for; 0 elsewhere. `diffuse`: float64 [Q].
    """

    mass: Floats
    diffuse: Floats

    @classmethod
    def of(cls, masses: Sequence[Mass], columns: Sequence[npt.NDArray[np.int64]], total: int) -> Target:
        """`columns`: for each query the column of every candidate, int64 [C]; `total`: N."""
        mass = np.zeros((len(masses), total))
        for row, (one, places) in enumerate(zip(masses, columns, strict=True)):
            mass[row, places] = one.weights * one.items
        return cls(mass, np.array([one.diffuse for one in masses]))


@dataclass(frozen=True)
class Fitted:
    """Share parameters and the loss that they reach, in nats a query; `smooth_loss` is that without a threshold."""

    calibration: ShareCalibration
    loss: float
    smooth_loss: float


def log_losses(target: Target, shares: Floats, diffuse: Floats) -> Floats:
    """The loss of every query, float64 [Q], in nats."""
    even = 1.0 / (target.mass.shape[1] + 1)
    told = np.log((1 - MIXED) * shares + MIXED * even)
    nobody = np.log((1 - MIXED) * diffuse + MIXED * even)
    return np.asarray(-(target.mass * told).sum(axis=1) - target.diffuse * nobody, np.float64)


def fit_shares(
    similarity: npt.NDArray[np.float32],
    columns: Columns,
    target: Target,
    *,
    candidates: int | None = None,
    ood_similarity: float,
) -> Fitted:
    """Find temperature, background and threshold of one kind of query.

    `similarity`: cosines float32 [Q, N]. Temperature and background come first, by Nelder and Mead from a grid of
    starts. The threshold is then the largest whose loss is within a standard error of the least one, the two others
    fitted again: zeros that cost nothing that can be measured are wanted. Raises `CalibrationError` with fewer than 10
    queries.
    """
    if len(similarity) < MIN_QUERIES:
        raise CalibrationError("queries", f"{len(similarity)}; at least {MIN_QUERIES} are needed")

    def made(point: npt.ArrayLike, threshold: float) -> ShareCalibration:
        log_temperature, background = np.asarray(point, np.float64).tolist()
        return ShareCalibration(
            temperature=float(np.exp(np.clip(log_temperature, -8.0, 2.0))),
            threshold=threshold,
            background=float(np.clip(background, -1.0, 2.0)),
            ood_similarity=ood_similarity,
        )

    def losses(calibration: ShareCalibration) -> Floats:
        return log_losses(target, *shares_of(similarity, columns, calibration, candidates))

    def best(start: npt.ArrayLike, threshold: float) -> npt.NDArray[np.float64]:
        found = minimize(
            lambda point: float(losses(made(point, threshold)).mean()),
            start,
            method="Nelder-Mead",
            options={"xatol": 2e-3, "fatol": 1e-5, "maxfev": 120},
        )
        return np.asarray(found.x, np.float64)

    levels = np.quantile(similarity, _BACKGROUNDS)
    starts = [(float(np.log(t)), float(level)) for t in _TEMPERATURES for level in levels]
    point = best(min(starts, key=lambda at: float(losses(made(at, 0.0)).mean())), 0.0)
    tried = [made(best(point, threshold) if threshold else point, threshold) for threshold in THRESHOLDS]
    rows = [losses(one) for one in tried]
    least = min(rows, key=lambda row: float(row.mean()))
    chosen = max(at for at, row in enumerate(rows) if _as_good(row, least))
    return Fitted(_rounded(tried[chosen]), float(rows[chosen].mean()), float(rows[0].mean()))


def _as_good(row: Floats, least: Floats) -> bool:
    """Within a standard error of the least; of paired differences, as queries differ more than thresholds do."""
    apart = row - least
    return float(apart.mean()) <= float(apart.std(ddof=1)) / len(apart) ** 0.5


def _rounded(calibration: ShareCalibration) -> ShareCalibration:
    return ShareCalibration(
        round(calibration.temperature, 6),
        calibration.threshold,
        round(calibration.background, 6),
        round(calibration.ood_similarity, 6),
    )
