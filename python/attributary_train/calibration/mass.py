"""A teacher's mass: which part of a query's positive influence each training item holds, and which is nobody's.

Unlearning a query raises the loss of every item a little; that common rise says nothing about anybody. So an item's
rise counts from the rise of a typical item, and stands out only above what a typical item varies by:

    zero   = median of the scores over the training set
    spread = 1.4826 x median distance of the scores below `zero` from it
    rise_i = max(score_i - zero, 0)            clear_i = rise_i if score_i > zero + level x spread, else 0
    mass_i = clear_i / sum_j rise_j            diffuse = 1 - sum_i mass_i

The spread is taken below the median, where influence cannot be: there is only noise of the draws, and items of which
the model loses as much as of any other. Near duplicates count once, as in the served shares: a group holds its best
member's rise, divided in proportion.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from attributary_train.errors import CalibrationError

Floats = npt.NDArray[np.float64]

# Spreads above the median from which an item stands out: one in 700 items would by normal noise alone.
LEVEL = 3.0
_NORMAL = 1.4826


@dataclass(frozen=True)
class Mass:
    """Mass of one query's candidates, float64 [C], and the diffuse rest; `weights` says how many items of the training
    set a candidate stands for. The weighted sum of `items` and `diffuse` is 1."""

    items: Floats
    diffuse: float
    weights: Floats
    zero: float
    floor: float


def stand_for(candidates: int, nearest: int, total: int) -> Floats:
    """How many items each candidate stands for, float64 [candidates]: the nearest for themselves, each of the others,
    drawn at random from the rest, for its part of the rest (Horvitz and Thompson, 1952).
    """
    if not 0 <= nearest <= candidates <= total:
        raise CalibrationError(
            "candidates", f"{candidates} of which {nearest} are the nearest, of {total} items; must not grow"
        )
    weights = np.ones(candidates)
    if nearest < candidates:
        weights[nearest:] = (total - nearest) / (candidates - nearest)
    elif candidates < total:
        raise CalibrationError(
            "candidates",
            f"all {candidates} are nearest ones; without random others nothing is known of the rest",
        )
    return weights


def teacher_mass(
    scores: npt.ArrayLike,
    weights: npt.ArrayLike,
    groups: npt.ArrayLike | None = None,
    *,
    level: float = LEVEL,
) -> Mass:
    """Mass from one query's scores.

    `scores`: [C], larger = more influential; `weights`: [C], above 0, from `stand_for`; `groups`: [C], equal for near
    duplicates. Raises `CalibrationError` for scores that are not finite, fewer than 20 candidates, or scores without
    any rise above their median.
    """
    values, weight = np.asarray(scores, np.float64), np.asarray(weights, np.float64)
    if values.shape != weight.shape or values.ndim != 1:
        raise CalibrationError(
            "scores", f"shape {values.shape} with weights {weight.shape}; both must be [C]"
        )
    if len(values) < 20:
        raise CalibrationError(
            "scores", f"{len(values)} candidates; at least 20 are needed for a noise floor"
        )
    if not np.isfinite(values).all():
        raise CalibrationError("scores", f"{int((~np.isfinite(values)).sum())} are not finite")
    zero = weighted_median(values, weight)
    below = values < zero
    spread = _NORMAL * weighted_median(zero - values[below], weight[below]) if below.any() else 0.0
    floor = zero + level * spread
    rise = np.clip(values - zero, 0.0, None)
    clear = np.where(values > floor, rise, 0.0)
    if groups is not None:
        once = _once_a_group(clear, np.asarray(groups))
        rise, clear = rise - (clear - once), once
    total = float((weight * rise).sum())
    if not total > 0:
        raise CalibrationError("scores", "none is above the median: the teacher saw no influence at all")
    items = clear / total
    return Mass(items, max(0.0, 1.0 - float((weight * items).sum())), weight, zero, floor)


def weighted_median(values: Floats, weights: Floats) -> float:
    """The value with half of the weight at or below it; between two values, their mean."""
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(weights[order])
    half = reached[-1] / 2
    at = int(np.searchsorted(reached, half * (1 - 1e-12)))
    if at + 1 < len(values) and np.isclose(reached[at], half):
        return float(values[order[at]] + values[order[at + 1]]) / 2
    return float(values[order[at]])


def _once_a_group(clear: Floats, groups: npt.NDArray[np.generic]) -> Floats:
    """A group's best rise, divided among its members in proportion to their own."""
    _, member = np.unique(groups, return_inverse=True)
    best = np.zeros(int(member.max()) + 1)
    np.maximum.at(best, member, clear)
    total = np.bincount(member, clear)
    factor = np.divide(best, total, out=np.zeros_like(best), where=total > 0)
    return np.asarray(clear * factor[member], np.float64)
