"""How sure a creator's share is: between what lies the mass of nine in ten creators who were told as much."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from attributary.bundle.manifest import ShareCalibration

from .shares import Floats

COVERAGE = 0.9
BINS = 8
# Fewer than this tell no tail of a twentieth on either side.
_LEAST = 40


def creator_interval(told: Floats, seen: Floats) -> tuple[tuple[float, float, float], ...]:
    """Rows (share, low, high) from pairs of a told share and the mass that the creator held, both [M].

    Pairs are put in bins of equally many by their share; a bin's ends are the quantiles of its masses with the ranks of
    split conformal prediction (Vovk et al., 2005), made to rise with the share. Empty with too few pairs.
    """
    bins = min(BINS, len(told) // _LEAST)
    if bins < 1:
        return ()
    rows = []
    for places in np.array_split(np.argsort(told, kind="stable"), bins):
        masses, tail = np.sort(seen[places]), (1.0 - COVERAGE) / 2
        below = max(0, math.floor(tail * (len(masses) + 1)) - 1)
        rows.append((float(told[places].mean()), masses[below], masses[len(masses) - 1 - below]))
    share, low, high = np.array(rows).T
    # A mass that stands for unasked items may pass 1.
    low = np.clip(np.minimum.accumulate(low[::-1])[::-1], 0.0, 1.0)
    high = np.clip(np.maximum.accumulate(high), 0.0, 1.0)
    return tuple(
        (round(float(a), 6), round(float(b), 6), round(float(c), 6))
        for a, b, c in zip(share, low, high, strict=True)
    )


def coverage(calibration: ShareCalibration, told: Floats, seen: Floats) -> dict[str, Any]:
    """How many pairs [M] the served interval covers, of all and of the shares above a twentieth; its mean width."""
    ends = calibration.between(told)
    if not len(told) or ends is None:
        return {"covered": None, "covered above 0.05": None, "width": None, "pairs": len(told)}
    low, high = ends
    inside = (low <= seen) & (seen <= high)
    large = told > 0.05
    return {
        "covered": float(inside.mean()),
        "covered above 0.05": float(inside[large].mean()) if large.any() else None,
        "width": float((high - low).mean()),
        "pairs": len(told),
    }
