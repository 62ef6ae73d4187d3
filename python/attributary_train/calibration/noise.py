"""How much of a teacher's mass is noise: two label folders that differ in the noise draw alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from attributary_train.evaluation.ranking import spearman_rows
from attributary_train.evaluation.stats import mean_interval
from attributary_train.evaluation.tables import interval_row, report
from attributary_train.teacher.labels import Label, read_facts, read_labels

from .errors import CalibrationError
from .mass import LEVEL, Mass, stand_for, teacher_mass

LEVELS = (2.0, LEVEL, 4.0, 6.0)


def compare_draws(first: Path, second: Path, total: int) -> dict[str, Any]:
    """A row a level: mass of two draws on the queries that both have. `total`: items of the training set.

    Total variation is half the sum of absolute differences, the diffuse part included: what two draws of one teacher
    differ by.
    `spread over noise`: the spread that the floor is set by over the noise of one draw (a robust deviation of the
    difference of the draws over root 2). Raises `CalibrationError` if the folders differ in more than the draw.
    """
    one, other = read_facts(first), read_facts(second)
    draws = [facts["settings"]["teacher"].pop("draw") for facts in (one, other)]
    for name in ("weights", "queries", "settings"):
        if one[name] != other[name]:
            raise CalibrationError(str(second), f"differs from {first} in {name}, not in the noise alone")
    if draws[0] == draws[1]:
        raise CalibrationError(str(second), f"has the draw {draws[0]} of {first}: the noise is the same")
    known = {label.query: label for label in read_labels(second) if label.error is None}
    pairs = [
        (label, known[label.query])
        for label in read_labels(first)
        if label.error is None and label.query in known
    ]
    if not pairs:
        raise CalibrationError(str(second), f"has no finished query of {first}")
    rows = [_row(pairs, total, level) for level in LEVELS]
    config = {"queries": len(pairs), "items": total, "draws": draws, "weights": one["weights"][:12]}
    return report("calibration-noise", config, {"levels": rows}, [])


def _row(pairs: list[tuple[Label, Label]], total: int, level: float) -> dict[str, Any]:
    apart, again, ratio, ranks, diffuse = [], [], [], [], []
    for one, other in pairs:
        if not np.array_equal(one.candidates, other.candidates):
            raise CalibrationError(one.query, "was labelled against other candidates in the second folder")
        a, b = _mass(one, total, level), _mass(other, total, level)
        apart.append((np.abs(a.weights * (a.items - b.items)).sum() + abs(a.diffuse - b.diffuse)) / 2)
        clear = a.items > 0
        again.append(float((clear & (b.items > 0)).sum() / max(1, clear.sum())))
        difference = (one.scores - other.scores).astype(float)
        noise = 1.4826 * np.median(np.abs(difference - np.median(difference))) / 2**0.5
        if noise > 0:
            ratio.append((a.floor - a.zero) / level / noise)
        ranks.append(spearman_rows(one.scores[None], other.scores[None])[0])
        diffuse.append(a.diffuse)
    return {
        "level": level,
        "total variation": interval_row(mean_interval(apart)),
        "stand out again": interval_row(mean_interval(again)),
        "spread over noise": float(np.median(ratio)) if ratio else None,
        "rank correlation": float(np.mean(ranks)),
        "diffuse": float(np.mean(diffuse)),
    }


def _mass(label: Label, total: int, level: float) -> Mass:
    nearest = total if len(label.scores) == total else label.nearest
    return teacher_mass(label.scores, stand_for(len(label.scores), nearest, total), level=level)
