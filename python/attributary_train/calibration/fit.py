"""Fitting the share formula to a teacher's mass.

Whom an answer names is settled first, by evidence and not by a score: the best `reach` near-duplicate groups of a
query, as many as are *more likely than not* to hold a mass that stands out of the teacher's noise. What lies beyond is
nobody's: its influence is small, it is not known whose, and a little for each of many would pay by the number of items.

Then five numbers for each kind of query (with and without a prompt): temperature, background, what the named lose of
the weight of the first that is not, how many times that weight is nobody's, and the diffuse floor, the part of every
answer that is nobody's. They minimise, in nats,

    loss = - mean over queries of ( sum_named mass_i log share_i + (1 - sum_named mass_i) log diffuse )

plus the same with items summed by creator, since creators' totals are what leaves as money. The loss is least where a
share is the expected mass (a proper score; Gneiting and Raftery, 2007), and `named` does not depend on what is fitted,
so that nothing is gained by naming less. The published score is fitted to known exemplars in the same way (Wang et al.,
ICCV 2023).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import isotonic_regression, minimize  # type: ignore[import-untyped]

from attributary.bundle.manifest import ShareCalibration
from attributary_train.errors import CalibrationError
from attributary_train.evaluation.shares import Columns, Floats, named_groups, shares_of

from .mass import Mass

MIN_QUERIES = 10
# Named is what more likely than not stands out of the teacher's noise.
LIKELY = 0.5
_TEMPERATURES = (0.02, 0.05, 0.1, 0.2)
_BACKGROUNDS = (0.5, 0.75, 0.9, 0.97)  # quantiles of the cosines, of all queries and items
_FLOORS = (0.02, 0.2)
# Part of the first group out of reach that the named lose, and how many of it nobody has.
_TAILS = ((0.98, 1.0), (0.98, 30.0), (0.7, 1.0), (0.7, 30.0))
_MOST_FLOOR = 0.95
_LEAST = 1e-12


@dataclass(frozen=True)
class Target:
    """What shares are fitted to: masses of the queries, on the columns of the similarity matrix.

    `mass`: float64 [Q, N], each candidate's mass times the items it stands for; 0 elsewhere. `diffuse`: float64 [Q].
    `stands_for`: float64 [Q, N], how many items each candidate stands for; 0 where the teacher was not asked.
    """

    mass: Floats
    diffuse: Floats
    stands_for: Floats

    @classmethod
    def of(cls, masses: Sequence[Mass], columns: Sequence[npt.NDArray[np.int64]], total: int) -> Target:
        """`columns`: for each query the column of every candidate, int64 [C]; `total`: N."""
        mass, stands_for = np.zeros((len(masses), total)), np.zeros((len(masses), total))
        for row, (one, places) in enumerate(zip(masses, columns, strict=True)):
            mass[row, places] = one.weights * one.items
            stands_for[row, places] = one.weights
        return cls(mass, np.array([one.diffuse for one in masses]), stands_for)


@dataclass(frozen=True)
class Fitted:
    """Share parameters, the loss that they reach in nats a query, and the part of the mass that got an exact 0."""

    calibration: ShareCalibration
    loss: float
    hidden: float


def unnamed(target: Target, shares: Floats) -> Floats:
    """Mass of the items that an answer gives exactly 0, float64 [Q]."""
    return np.asarray((target.mass * (shares == 0)).sum(axis=1), np.float64)


def log_losses(
    target: Target, shares: Floats, diffuse: Floats, named: npt.NDArray[np.bool_] | None = None
) -> Floats:
    """The loss of every query, float64 [Q], in nats; `named` [Q, N]: by default what has a share."""
    named = shares > 0 if named is None else named
    held = np.where(named, target.mass, 0.0)
    predicted = np.log(np.maximum(shares, _LEAST))
    nobody = np.log(np.maximum(diffuse, _LEAST))
    return np.asarray(-(held * predicted).sum(axis=1) - (1.0 - held.sum(axis=1)) * nobody, np.float64)


def by_creator(values: Floats, creator_of_item: npt.NDArray[np.int64]) -> Floats:
    """Sums over creators, [Q, N] -> [Q, K]."""
    out = np.zeros((len(values), int(creator_of_item.max()) + 1))
    for row, found in zip(out, values, strict=True):
        row += np.bincount(creator_of_item, found, minlength=out.shape[1])
    return out


def likely_reach(similarity: npt.NDArray[np.float32], columns: Columns, target: Target) -> int:
    """How many groups of a query are more likely than not to hold a mass that stands out; at least 1.

    The chance at each rank is made to fall with the rank (isotonic regression), so that no single rank decides.
    """
    rank = columns.ranks(similarity)
    found = np.bincount(rank.ravel(), (target.stands_for * (target.mass > 0)).ravel())
    stands_for = np.bincount(rank.ravel(), target.stands_for.ravel())
    known = stands_for > 0
    chance = isotonic_regression(
        found[known] / stands_for[known], weights=stands_for[known], increasing=False
    ).x
    likely = np.flatnonzero(known)[chance >= LIKELY]
    return int(likely.max()) + 1 if len(likely) else 1


def fit_shares(
    similarity: npt.NDArray[np.float32],
    columns: Columns,
    target: Target,
    *,
    creators: npt.NDArray[np.int64] | None = None,
    candidates: int | None = None,
    ood_similarity: float,
    ood_margin: float = 0.0,
    reach: int | None = None,
) -> Fitted:
    """Find reach, temperature, background and floor of one kind of query.

    `similarity`: cosines float32 [Q, N]; `creators`: a number of each item's creator [N], None to leave them out;
    `reach`: None finds it. Nelder and Mead from the best of a grid of starts. Raises `CalibrationError`
    with fewer than 10 queries.
    """
    if len(similarity) < MIN_QUERIES:
        raise CalibrationError("queries", f"{len(similarity)}; at least {MIN_QUERIES} are needed")
    reach = likely_reach(similarity, columns, target) if reach is None else reach
    named = named_groups(similarity, columns, reach)
    totals = None if creators is None else _Totals.of(target, named, creators)
    cuts = reach < min(len(columns.starts), candidates or len(columns.starts))

    def made(point: npt.ArrayLike, flag: float, margin: float) -> ShareCalibration:
        log_temperature, background, floor, cut, log_null = np.asarray(point, np.float64).tolist()
        return ShareCalibration(
            temperature=round(float(np.exp(np.clip(log_temperature, -8.0, 2.0))), 6),
            threshold=0.0,
            background=round(float(np.clip(background, ood_similarity, 2.0)), 6),
            ood_similarity=round(flag, 6),
            diffuse_floor=round(float(np.clip(floor, 0.0, _MOST_FLOOR)), 6),
            ood_margin=round(margin, 6),
            reach=reach,
            reach_cut=round(float(np.clip(cut, 0.0, 1.0)), 6) if cuts else 1.0,
            reach_null=round(float(np.exp(np.clip(log_null, -4.0, 10.0))), 6) if cuts else 1.0,
        )

    def loss(point: npt.ArrayLike) -> float:
        # Answers to generated pictures are fitted; that some of them are flagged is the flag's cost.
        predicted, diffuse = shares_of(similarity, columns, made(point, -1.0, 0.0), candidates)
        found = float(log_losses(target, predicted, diffuse, named).mean())
        return found if totals is None else found + totals.loss(predicted, diffuse)

    levels = np.maximum(np.quantile(similarity, _BACKGROUNDS), ood_similarity)
    tails = [(cut, float(np.log(null))) for cut, null in _TAILS] if cuts else [(1.0, 0.0)]
    # What is nobody's can be a background, a floor or the crowd beyond: one start would end with whichever it began.
    starts = [
        [(float(np.log(t)), float(b), f, *tail) for t in _TEMPERATURES for b in levels for f in _FLOORS]
        for tail in tails
    ]
    options = {"xatol": 1e-3, "fatol": 1e-5, "maxfev": 800}
    tried = [minimize(loss, min(some, key=loss), method="Nelder-Mead", options=options) for some in starts]
    found = min(tried, key=lambda one: float(one.fun))
    predicted, diffuse = shares_of(similarity, columns, made(found.x, -1.0, 0.0), candidates)
    return Fitted(
        made(found.x, ood_similarity, ood_margin),
        float(log_losses(target, predicted, diffuse, named).mean()),
        float((target.mass * ~named).sum(axis=1).mean()),
    )


@dataclass(frozen=True)
class _Totals:
    """The same loss over creators: what each holds of the named items, float64 [Q, K]."""

    mass: Floats
    creators: npt.NDArray[np.int64]

    @classmethod
    def of(cls, target: Target, named: npt.NDArray[np.bool_], creators: npt.NDArray[np.int64]) -> _Totals:
        return cls(by_creator(np.where(named, target.mass, 0.0), creators), creators)

    def loss(self, shares: Floats, diffuse: Floats) -> float:
        predicted = np.log(np.maximum(by_creator(shares, self.creators), _LEAST))
        nobody = np.log(np.maximum(diffuse, _LEAST))
        return float((-(self.mass * predicted).sum(axis=1) - (1.0 - self.mass.sum(axis=1)) * nobody).mean())
