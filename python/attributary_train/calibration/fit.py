"""Fitting the share formula to a teacher's mass.

Three numbers for each kind of query (with and without prompt): temperature, background, threshold. An item whose share
is exactly 0 is not named; what it holds belongs to the diffuse part of that answer. The loss is the log loss of the
teacher's mass:

    loss = - mean over queries of ( sum_named mass_i log share_i + (1 - sum_named mass_i) log diffuse )

It is least where a share is the expected mass (a proper score; Gneiting and Raftery, 2007). The published score is
fitted to known exemplars in the same way (Wang et al., ICCV 2023). Temperature and background minimise it with all
items named. Naming fewer makes it smaller whatever they hold, so a threshold is not chosen by it: it is the largest one
that leaves unnamed at most `HIDDEN` of the teacher's mass, with the background moved so that the mean diffuse part is
right.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq, minimize  # type: ignore[import-untyped]

from attributary.bundle.manifest import ShareCalibration

from .errors import CalibrationError
from .mass import Mass
from .shares import Columns, Floats, shares_of

# Part of the teacher's mass that items with an exact 0 may hold.
HIDDEN = 0.1
MIN_QUERIES = 10
_TEMPERATURES = (0.02, 0.05, 0.1, 0.2)
_BACKGROUNDS = (0.5, 0.75, 0.9, 0.97)  # quantiles of the cosines, of all queries and items
THRESHOLDS = (0.0, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 0.01, 0.02, 0.05, 0.1)
_LEAST = 1e-12


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
    """Share parameters, the loss that they reach in nats a query, and the part of the mass that got an exact 0."""

    calibration: ShareCalibration
    loss: float
    hidden: float


def unnamed(target: Target, shares: Floats) -> Floats:
    """Mass of the items that an answer gives exactly 0, float64 [Q]."""
    return np.asarray((target.mass * (shares == 0)).sum(axis=1), np.float64)


def log_losses(target: Target, shares: Floats, diffuse: Floats) -> Floats:
    """The loss of every query, float64 [Q], in nats."""
    named = np.where(shares > 0, target.mass, 0.0)
    told = np.log(np.maximum(shares, _LEAST))
    nobody = np.log(np.maximum(diffuse, _LEAST))
    return np.asarray(-(named * told).sum(axis=1) - (1.0 - named.sum(axis=1)) * nobody, np.float64)


def fit_shares(
    similarity: npt.NDArray[np.float32],
    columns: Columns,
    target: Target,
    *,
    candidates: int | None = None,
    ood_similarity: float,
) -> Fitted:
    """Find temperature, background and threshold of one kind of query.

    `similarity`: cosines float32 [Q, N]. Temperature and background by Nelder and Mead from a grid of starts. Raises
    `CalibrationError` with fewer than 10 queries.
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

    levels = np.quantile(similarity, _BACKGROUNDS)
    starts = [(float(np.log(t)), float(level)) for t in _TEMPERATURES for level in levels]
    found = minimize(
        lambda point: float(losses(made(point, 0.0)).mean()),
        min(starts, key=lambda at: float(losses(made(at, 0.0)).mean())),
        method="Nelder-Mead",
        options={"xatol": 1e-3, "fatol": 1e-5, "maxfev": 200},
    )
    log_temperature, background = np.asarray(found.x, np.float64).tolist()

    def excess(level: float, threshold: float) -> float:
        """By how much the mean diffuse part is too large with a background at `level`."""
        told, diffuse = shares_of(similarity, columns, made((log_temperature, level), threshold), candidates)
        return float((diffuse - target.diffuse - unnamed(target, told)).mean())

    chosen: Fitted | None = None
    for threshold in THRESHOLDS:
        if threshold:
            background = _root(lambda level, cut=threshold: excess(level, cut), background)  # type: ignore[misc]
        calibration = _rounded(made((log_temperature, background), threshold))
        told, diffuse = shares_of(similarity, columns, calibration, candidates)
        hidden = float(unnamed(target, told).mean())
        if chosen is not None and hidden > HIDDEN:
            break
        chosen = Fitted(calibration, float(log_losses(target, told, diffuse).mean()), hidden)
    assert chosen is not None
    return chosen


def _root(excess: Callable[[float], float], near: float) -> float:
    """The level at which nothing is in excess, the first one above far too little; `near` where there is none."""
    levels = near + np.linspace(-0.3, 0.3, 61)
    values = [excess(float(level)) for level in levels]
    for at in range(1, len(levels)):
        if values[at - 1] < 0 <= values[at]:
            return float(brentq(excess, levels[at - 1], levels[at], xtol=1e-4))
    return near


def _rounded(calibration: ShareCalibration) -> ShareCalibration:
    return ShareCalibration(
        round(calibration.temperature, 6),
        calibration.threshold,
        round(calibration.background, 6),
        round(calibration.ood_similarity, 6),
    )
