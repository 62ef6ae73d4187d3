"""The flag's statistics chosen again without one foreign kind, and judged on it.

Nothing of the flag is fitted to foreign pictures: its density and its limit are of generated ones alone. What foreign
kinds could have decided is which statistics of the pixels there are. Here a rule decides it: of several sets that which
finds most of the foreign kinds, on average, with the false alarms that were asked for. With each kind left out in turn
the rule may choose differently, and the set it chooses is judged on the kind that it did not see.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from .ood import FALSE_ALARMS
from .pixels import fit_density

Statistics = npt.NDArray[np.float32]

# Columns of `attributary.attribution.pixel_statistics`.
GROUPS: Mapping[str, tuple[int, ...]] = {
    "colours": (*range(6), 12, 13, *range(42, 46)),
    "border": tuple(range(6, 12)),
    "edges of brightness": tuple(range(14, 29)),
    "edges of colour": tuple(range(29, 39)),
    "evenness": tuple(range(39, 42)),
}
_FINEST = (14, 15, 16, 29, 34)
_ALL = tuple(sorted(sum(GROUPS.values(), ())))
SETS: Mapping[str, tuple[int, ...]] = {
    "all": _ALL,
    "all but the finest scale": tuple(one for one in _ALL if one not in _FINEST),
    **{f"all but {name}": tuple(one for one in _ALL if one not in group) for name, group in GROUPS.items()},
    **{f"{name} alone": group for name, group in GROUPS.items()},
}


def left_out(
    known: Statistics,
    test: Statistics,
    foreign: Mapping[str, Statistics],
    false_alarms: float = FALSE_ALARMS,
) -> dict[str, Any]:
    """Statistics float32 [n, D] of generated pictures to fit to, of others, and of foreign ones by kind.

    Returns what each set finds of each kind, and for each kind the set chosen without it and what that finds of it.
    """
    found: dict[str, dict[str, float]] = {}
    for name, columns in SETS.items():
        chosen = list(columns)
        density, limit = fit_density(known[:, chosen], false_alarms)
        found[name] = {
            title: float((density.distance(rows[:, chosen]) >= limit).mean())
            for title, rows in {"false alarms": test, **foreign}.items()
        }
    turns = {}
    for title in foreign:
        others = [one for one in foreign if one != title]
        # Of sets that find as much the one with fewer statistics.
        best = max(SETS, key=lambda name: (round(_mean(found[name], others), 3), -len(SETS[name])))
        turns[title] = {
            "chosen without it": best,
            "detected": found[best][title],
            "false alarms": found[best]["false alarms"],
            "of the others": _mean(found[best], others),
        }
    return {"sets": found, "turns": turns}


def _mean(row: Mapping[str, float], kinds: list[str]) -> float:
    return float(np.mean([row[kind] for kind in kinds])) if kinds else 0.0
