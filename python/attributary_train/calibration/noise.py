"""How much of a teacher's mass is noise: labels, or score files, that differ in the noise draw alone."""

from __future__ import annotations

from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import numpy as np

from attributary_train.errors import CalibrationError
from attributary_train.evaluation.ranking import spearman_rows
from attributary_train.evaluation.scores import load_scores
from attributary_train.evaluation.stats import mean_interval
from attributary_train.evaluation.tables import interval_row, report
from attributary_train.teacher.abu import AbuSettings
from attributary_train.teacher.labels import Label, read_facts, read_labels

from .mass import LEVEL, Mass, stand_for, teacher_mass

LEVELS = (2.0, LEVEL, 4.0, 6.0)
# The largest masses of a query: about a tenth of those that a student names.
LARGEST = 10
_DEFAULTS = {entry.name: entry.default for entry in fields(AbuSettings) if entry.default is not MISSING}


def compare_draws(first: Path, second: Path, total: int) -> dict[str, Any]:
    """A row a level: mass of two draws on the queries that both have. `total`: items of the training set.

    `largest`: the ten largest masses of each query by one draw over what the other draw says of the same items,
    less 1. A perfect student that were told one draw would be off by as much: the largest are partly noise.
    Total variation is half the sum of absolute differences, the diffuse part included: what two draws of one teacher
    differ by.
    `spread over noise`: the spread that the floor is set by over the noise of one draw (a robust deviation of the
    difference of the draws over root 2). Raises `CalibrationError` if the folders differ in more than the draw.
    """
    (one, own), (other, others) = _read(first), _read(second)
    draws = [facts["settings"]["teacher"].pop("draw", 0) for facts in (one, other)]
    for name in ("weights", "queries", "settings"):
        if one.get(name) != other.get(name):
            raise CalibrationError(str(second), f"differs from {first} in {name}, not in the noise alone")
    if draws[0] == draws[1]:
        raise CalibrationError(str(second), f"has the draw {draws[0]} of {first}: the noise is the same")
    known = {label.query: label for label in others if label.error is None}
    pairs = [(label, known[label.query]) for label in own if label.error is None and label.query in known]
    if not pairs:
        raise CalibrationError(str(second), f"has no finished query of {first}")
    rows = [_row(pairs, total, level) for level in LEVELS]
    config = {"queries": len(pairs), "items": total, "draws": draws, "weights": one["weights"][:12]}
    return report("calibration-noise", config, {"levels": rows}, [])


def _read(path: Path) -> tuple[dict[str, Any], list[Label]]:
    """What labels are of, and the labels themselves, from a folder or a score file."""
    if path.is_dir():
        return read_facts(path), read_labels(path)
    file = load_scores(path)
    # A score file says what was set; what was not is the unlearning teacher's own, and the same in both.
    settings = _DEFAULTS | dict(file.facts.get("settings") or {})
    count = len(file.ids)
    labels = [
        Label(name, "", file.ids, row, count, None, None, None)
        for name, row in zip(file.queries, file.scores, strict=True)
    ]
    return {"weights": file.weights, "settings": {"teacher": settings}}, labels


def _row(pairs: list[tuple[Label, Label]], total: int, level: float) -> dict[str, Any]:
    apart, again, ratio, ranks, diffuse, largest = [], [], [], [], [], []
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
        largest += [_largest(a, b), _largest(b, a)]
    return {
        "level": level,
        "total variation": interval_row(mean_interval(apart)),
        "stand out again": interval_row(mean_interval(again)),
        "spread over noise": float(np.median(ratio)) if ratio else None,
        "rank correlation": float(np.mean(ranks)),
        "diffuse": float(np.mean(diffuse)),
        "largest": float(
            np.sum([predicted for predicted, _ in largest]) / np.sum([seen for _, seen in largest]) - 1.0
        ),
    }


def _largest(predicted: Mass, seen: Mass) -> tuple[float, float]:
    """Sums over the largest masses of one draw: as it says, and as the other does."""
    places = np.argsort(-predicted.items, kind="stable")[:LARGEST]
    return float(predicted.items[places].sum()), float(seen.items[places].sum())


def _mass(label: Label, total: int, level: float) -> Mass:
    nearest = total if len(label.scores) == total else label.nearest
    return teacher_mass(label.scores, stand_for(len(label.scores), nearest, total), level=level)
