"""Fitting the share formula to a teacher's mass.

Four numbers for each kind of query (with and without prompt): temperature, background, threshold, and the diffuse
floor, the part of every answer that is nobody's. Without a floor weak matches alone are diffuse; the teacher's diffuse
part hardly follows how near the best items are. An item whose share is exactly 0 is not named; what it holds belongs to
the diffuse part of that answer. The loss is the log loss of the teacher's mass:

    loss = - mean over queries of ( sum_named mass_i log share_i + (1 - sum_named mass_i) log diffuse )

It is least where a share is the expected mass (a proper score; Gneiting and Raftery, 2007). The published score is
fitted to known exemplars in the same way (Wang et al., ICCV 2023). Temperature, background and floor minimise it with
all items named; the background stays at or above the flag's threshold, so that an item no nearer than the best of a
flagged query weighs no more than nobody. Naming fewer makes the loss smaller whatever they hold, so a threshold is not
chosen by it: it is the largest one that leaves unnamed at most `HIDDEN` of the teacher's mass, with the floor moved so
that the mean diffuse part is right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize  # type: ignore[import-untyped]

from attributary.bundle.manifest import ShareCalibration

from .errors import CalibrationError
from .mass import Mass
from .shares import Columns, Floats, shares_of

# Part of the teacher's mass that items with an exact 0 may hold. Sharp answers hide several times the mean of it, which
# no floor makes up for, so it is small.
HIDDEN = 0.02
MIN_QUERIES = 10
_TEMPERATURES = (0.02, 0.05, 0.1, 0.2)
_BACKGROUNDS = (0.5, 0.75, 0.9, 0.97)  # quantiles of the cosines, of all queries and items
_FLOORS = (0.05, 0.2)
_MOST_FLOOR = 0.95
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
    """Find temperature, background, floor and threshold of one kind of query.

    `similarity`: cosines float32 [Q, N]. All but the threshold by Nelder and Mead from a grid of starts. Raises
    `CalibrationError` with fewer than 10 queries.
    """
    if len(similarity) < MIN_QUERIES:
        raise CalibrationError("queries", f"{len(similarity)}; at least {MIN_QUERIES} are needed")

    def made(point: npt.ArrayLike) -> ShareCalibration:
        log_temperature, background, floor = np.asarray(point, np.float64).tolist()
        return ShareCalibration(
            temperature=float(np.exp(np.clip(log_temperature, -8.0, 2.0))),
            threshold=0.0,
            background=float(np.clip(background, ood_similarity, 2.0)),
            ood_similarity=ood_similarity,
            diffuse_floor=float(np.clip(floor, 0.0, _MOST_FLOOR)),
        )

    def loss(calibration: ShareCalibration) -> float:
        told, diffuse = shares_of(similarity, columns, calibration, candidates)
        return float(log_losses(target, told, diffuse).mean())

    levels = np.maximum(np.quantile(similarity, _BACKGROUNDS), ood_similarity)
    starts = [(float(np.log(t)), float(b), floor) for t in _TEMPERATURES for b in levels for floor in _FLOORS]
    found = minimize(
        lambda point: loss(made(point)),
        min(starts, key=lambda at: loss(made(at))),
        method="Nelder-Mead",
        options={"xatol": 1e-3, "fatol": 1e-5, "maxfev": 300},
    )
    smooth = made(found.x)
    chosen: Fitted | None = None
    for threshold in THRESHOLDS:
        cut = replace(
            smooth, threshold=threshold, diffuse_floor=smooth.diffuse_floor if not threshold else 0.0
        )
        told, diffuse = shares_of(similarity, columns, cut, candidates)
        if threshold:
            # What is unnamed does not depend on the floor, so the floor that sets the mean right has a closed form.
            wanted = float((target.diffuse + unnamed(target, told)).mean())
            floor = (wanted - float(diffuse.mean())) / max(1.0 - float(diffuse.mean()), _LEAST)
            cut = replace(cut, diffuse_floor=float(np.clip(floor, 0.0, _MOST_FLOOR)))
        cut = _rounded(cut)
        told, diffuse = shares_of(similarity, columns, cut, candidates)
        hidden = float(unnamed(target, told).mean())
        if chosen is not None and hidden > HIDDEN:
            break
        chosen = Fitted(cut, float(log_losses(target, told, diffuse).mean()), hidden)
    assert chosen is not None
    return chosen


def _rounded(calibration: ShareCalibration) -> ShareCalibration:
    return ShareCalibration(
        round(calibration.temperature, 6),
        calibration.threshold,
        round(calibration.background, 6),
        round(calibration.ood_similarity, 6),
        round(calibration.diffuse_floor, 6),
    )
