"""How sure a creator's share is: between what the mass of nine in ten lay who were told as much.

Many creators with a small share hold nothing at all. An interval between two twentieths would then begin at 0 and have
nobody below it, so that it held 95% and was too wide; here the high end takes what the low end cannot.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from attributary.bundle.manifest import ShareCalibration
from attributary_train.evaluation.stats import percentile_interval, resamples

from .shares import Floats

COVERAGE = 0.9
BINS = 8
# Fewer than this tell no tail of a twentieth on either side.
_LEAST = 40
_DRAWS = 2000


def creator_interval(told: Floats, seen: Floats, bins: int = BINS) -> tuple[tuple[float, float, float], ...]:
    """Rows (share, low, high) from pairs of a told share and the mass that the creator held, both [M].

    Pairs are put in bins of equally many by their share (conformal prediction by category; Vovk et al., 2005); their
    ends are made to rise with the share. Empty with too few pairs.
    """
    bins = min(bins, len(told) // _LEAST)
    if bins < 1:
        return ()
    rows = []
    for places in np.array_split(np.argsort(told, kind="stable"), bins):
        rows.append((float(told[places].mean()), *ends(seen[places])))
    share, low, high = np.array(rows).T
    # A mass that stands for unasked items may pass 1.
    low = np.clip(np.minimum.accumulate(low[::-1])[::-1], 0.0, 1.0)
    high = np.clip(np.maximum.accumulate(high), 0.0, 1.0)
    return tuple(
        (round(float(a), 6), round(float(b), 6), round(float(c), 6))
        for a, b, c in zip(share, low, high, strict=True)
    )


def ends(masses: Floats, covered: float = COVERAGE) -> tuple[float, float]:
    """The ends between which `covered` of n + 1 masses lie, of which n are given, [n].

    The low end leaves half of the rest below it, or nothing where that is an atom; the high end what then remains.
    """
    ordered = np.sort(masses)
    count = min(len(ordered), math.ceil(covered * (len(ordered) + 1)))
    low = ordered[max(0, math.floor((1.0 - covered) / 2 * (len(ordered) + 1)) - 1)]
    below = int(np.searchsorted(ordered, low, side="left"))
    return float(low), float(ordered[min(below + count, len(ordered)) - 1])


def coverage(
    calibration: ShareCalibration, told: Floats, seen: Floats, constant: ShareCalibration | None = None
) -> dict[str, Any]:
    """What the served intervals hold, of creators [Q, K] who were told a share: those with none are not counted.

    Coverage with its interval from resampled queries, of all and of the shares above a twentieth; mean width; and the
    interval score (Winkler, 1972: the width, and 20 times what is missed by), a proper score. `constant` has one
    interval for every share: a coverage that it reaches too is no merit, a lower score is.
    """
    if not (told > 0).any() or not calibration.interval:
        return {"covered": None, "covered above 0.05": None, "width": None, "pairs": int((told > 0).sum())}
    row = _held(calibration, told, seen)
    if constant is not None and constant.interval:
        other = _held(constant, told, seen)
        row["constant"] = {name: other[name] for name in ("covered", "width", "interval score")}
        row["skill"] = 1.0 - row["interval score"] / other["interval score"]
    return row


def _held(calibration: ShareCalibration, told: Floats, seen: Floats) -> dict[str, Any]:
    ends = calibration.between(told)
    assert ends is not None
    low, high = ends
    counted, inside = told > 0, (low <= seen) & (seen <= high)
    missed = np.maximum(low - seen, 0.0) + np.maximum(seen - high, 0.0)
    score = high - low + 2.0 / (1.0 - COVERAGE) * missed
    draws = resamples(len(told), _DRAWS)
    covered = float(inside[counted].mean())
    hits, pairs = (inside & counted).sum(axis=1), counted.sum(axis=1)
    drawn = hits[draws].sum(axis=1) / np.maximum(pairs[draws].sum(axis=1), 1)
    found = percentile_interval(covered, drawn)
    large = told > 0.05
    return {
        "covered": covered,
        "low": found.low,
        "high": found.high,
        "covered above 0.05": float(inside[large].mean()) if large.any() else None,
        "above": float((seen > high)[counted].mean()),
        "below": float((seen < low)[counted].mean()),
        "width": float((high - low)[counted].mean()),
        "interval score": float(score[counted].mean()),
        "pairs": int(counted.sum()),
    }
