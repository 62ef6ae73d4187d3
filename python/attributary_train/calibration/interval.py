"""How sure a creator's share is: between what the mass of nine in ten lay who were told as much.

Many creators with a small share hold nothing at all. An interval between two twentieths would then begin at 0 and have
nobody below it, so that it held 95% and was too wide; here the high end takes what the low end cannot.

Ends rise with the share and are read between rows, which widens them: bins that hold nine in ten each hold more once
they are joined. So how fine the table is and what each bin must hold are found on queries that a table was not made of
(cross-conformal prediction; Vovk, 2015), whole queries at a time, since creators of one query depend on each other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import isotonic_regression  # type: ignore[import-untyped]

from attributary.bundle.manifest import ShareCalibration
from attributary_train.evaluation.shares import Floats
from attributary_train.evaluation.stats import percentile_interval, resamples

COVERAGE = 0.9
BINS = (8, 12, 16, 24)
# What a bin may be made to hold so that nine in ten are held in the end.
_LEVELS = tuple(round(0.86 + 0.005 * step, 3) for step in range(13))
_FOLDS = 20
# Fewer than this tell no tail of a twentieth on either side.
_LEAST = 40
_DRAWS = 2000
_HALVES = 200
_BESIDE = ("covered", "covered of those who hold something", "width", "interval score")
Table = tuple[tuple[float, float, float], ...]


@dataclass(frozen=True)
class Intervals:
    """A table of rows (share, low, high), and how it was made: what its bins hold, and what tables made in the same way
    held of queries that they were not made of. `deviation`: by how much the coverage of as many further queries varies
    with which queries a table is made of and which are asked; both None with too few to tell."""

    table: Table
    level: float = COVERAGE
    covered: float | None = None
    score: float | None = None
    deviation: float | None = None


def creator_intervals(predicted: Floats, seen: Floats, bins: tuple[int, ...] = BINS) -> Intervals:
    """From told shares and the masses that the creators held, both [Q, K]; those with no share are not counted.

    Of each number of bins the level whose tables hold nearest to `COVERAGE` elsewhere; of these the one with the best
    interval score. An empty table with too few pairs.
    """
    if int((predicted > 0).sum()) < _LEAST:
        return Intervals(())
    fold = np.random.default_rng(len(predicted)).permutation(len(predicted)) % min(_FOLDS, len(predicted))
    found = [_level(predicted, seen, count, fold) for count in bins]
    level, covered, score, count = min(found, key=lambda one: one[2])
    named = predicted > 0
    table = creator_interval(predicted[named], seen[named], count, level)
    return Intervals(table, level, covered, score, _deviation(predicted, seen, count, level))


def _level(
    predicted: Floats, seen: Floats, bins: int, fold: npt.NDArray[np.int64]
) -> tuple[float, float, float, int]:
    """The level whose tables hold nearest to `COVERAGE` elsewhere, that coverage, the interval score, and the bins."""
    named, found = predicted > 0, []
    for level in _LEVELS:
        inside, score = np.zeros(predicted.shape, bool), np.zeros(predicted.shape)
        for one in np.unique(fold):
            out = fold == one
            rest = named & ~out[:, None]
            table = creator_interval(predicted[rest], seen[rest], bins, level)
            inside[out], score[out] = _judged(table, predicted[out], seen[out])
        found.append((level, float(inside[named].mean()), float(score[named].mean()), bins))
    return min(found, key=lambda one: abs(one[1] - COVERAGE))


def _deviation(predicted: Floats, seen: Floats, bins: int, level: float) -> float | None:
    """Of the coverage of tables from as many queries on as many others: from halves, which vary by root 2 more."""
    found, rng, named = [], np.random.default_rng(0), predicted > 0
    for _ in range(_HALVES):
        half = np.isin(np.arange(len(predicted)), rng.permutation(len(predicted))[: len(predicted) // 2])
        rest = named & half[:, None]
        table = creator_interval(predicted[rest], seen[rest], bins, level)
        if not table:
            return None
        inside, _ = _judged(table, predicted[~half], seen[~half])
        found.append(inside[named[~half]].mean())
    return float(np.std(found) / 2**0.5)


def _judged(table: Table, predicted: Floats, seen: Floats) -> tuple[Any, Floats]:
    """Which masses a table's intervals hold, and their interval scores, both of the shape of `predicted`."""
    if not table:
        return np.zeros(predicted.shape, bool), np.full(predicted.shape, np.inf)
    ends = ShareCalibration(1.0, 0.0, 0.0, 0.0, interval=table).between(predicted)
    assert ends is not None
    low, high = ends
    missed = np.maximum(low - seen, 0.0) + np.maximum(seen - high, 0.0)
    return (low <= seen) & (seen <= high), high - low + 2.0 / (1.0 - COVERAGE) * missed


def creator_interval(predicted: Floats, seen: Floats, bins: int, level: float = COVERAGE) -> Table:
    """Rows (share, low, high) from pairs of a told share and the mass that the creator held, both [M].

    Pairs are put in bins of equally many by their share (conformal prediction by category; Vovk et al., 2005); their
    ends, between which `level` of a bin lies, are made to rise with the share. Empty with too few pairs.
    """
    bins = min(bins, len(predicted) // _LEAST)
    if bins < 1:
        return ()
    rows = []
    for places in np.array_split(np.argsort(predicted, kind="stable"), bins):
        rows.append((float(predicted[places].mean()), *ends(seen[places], level)))
    share, low, high = np.array(rows).T
    # A mass that stands for unasked items may pass 1.
    low, high = (np.clip(isotonic_regression(one).x, 0.0, 1.0) for one in (low, high))
    return tuple(
        (round(float(a), 6), round(float(b), 6), round(float(c), 6))
        for a, b, c in zip(share, low, high, strict=True)
    )


def ends(masses: Floats, covered: float = COVERAGE) -> tuple[float, float]:
    """The ends between which `covered` of n + 1 masses lie, of which n are given, [n].

    The low end leaves half of the rest below it, or nothing where that is an atom; the high end what then remains,
    between two masses in proportion: bins of one size would else all round up together.
    """
    ordered = np.sort(masses)
    low = ordered[max(0, math.floor((1.0 - covered) / 2 * (len(ordered) + 1)) - 1)]
    below = int(np.searchsorted(ordered, low, side="left"))
    place = below + covered * (len(ordered) + 1) - 1.0
    return float(low), float(np.interp(place, np.arange(len(ordered)), ordered))


def coverage(
    calibration: ShareCalibration, predicted: Floats, seen: Floats, constant: ShareCalibration | None = None
) -> dict[str, Any]:
    """What the served intervals hold, of creators [Q, K] who were told a share: those with none are not counted.

    Coverage with its interval from resampled queries, of all, of the shares above a twentieth and of those who hold
    something at all; mean width; and the
    interval score (Winkler, 1972: the width, and 20 times what is missed by), a proper score. `constant` has one
    interval for every share: a coverage that it reaches too is no merit, a lower score is.
    """
    if not (predicted > 0).any() or not calibration.interval:
        return {"covered": None, "width": None, "pairs": int((predicted > 0).sum())}
    row = _held(calibration, predicted, seen)
    if constant is not None and constant.interval:
        other = _held(constant, predicted, seen)
        row["constant"] = {name: other[name] for name in _BESIDE}
        row["skill"] = 1.0 - row["interval score"] / other["interval score"]
    return row


def _held(calibration: ShareCalibration, predicted: Floats, seen: Floats) -> dict[str, Any]:
    ends = calibration.between(predicted)
    assert ends is not None
    low, high = ends
    counted, (inside, score) = predicted > 0, _judged(calibration.interval, predicted, seen)
    draws = resamples(len(predicted), _DRAWS)
    covered = float(inside[counted].mean())
    hits, pairs = (inside & counted).sum(axis=1), counted.sum(axis=1)
    drawn = hits[draws].sum(axis=1) / np.maximum(pairs[draws].sum(axis=1), 1)
    found = percentile_interval(covered, drawn)
    large, holds = predicted > 0.05, counted & (seen > 0)
    return {
        "covered": covered,
        "low": found.low,
        "high": found.high,
        "covered above 0.05": float(inside[large].mean()) if large.any() else None,
        # An interval that begins at 0 holds whoever has nothing, whatever it is worth.
        "covered of those who hold something": float(inside[holds].mean()) if holds.any() else None,
        "hold nothing": float((seen[counted] == 0).mean()),
        "above": float((seen > high)[counted].mean()),
        "below": float((seen < low)[counted].mean()),
        "width": float((high - low)[counted].mean()),
        "interval score": float(score[counted].mean()),
        "pairs": int(counted.sum()),
    }
