"""The out-of-distribution flag: which score tells foreign pictures from generated ones, and where its threshold is."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata  # type: ignore[import-untyped]

from attributary_train.errors import CalibrationError

Floats = npt.NDArray[np.float64]
Cosines = npt.NDArray[np.float32]

# Share of generated pictures that may be flagged.
FALSE_ALARMS = 0.02
# Of that share, how many times as many generated pictures have shares that are less than whole.
MARGIN = 3.0
# What the served engine computes; the others are rivals that it could compute from the candidates it has.
SERVED = "best cosine"


def _best(cosines: Cosines) -> Floats:
    return np.asarray(cosines.max(axis=1), np.float64)


def _mean_of_ten(cosines: Cosines) -> Floats:
    count = min(10, cosines.shape[1])
    return np.asarray(-np.partition(-cosines, count - 1, axis=1)[:, :count].mean(axis=1), np.float64)


def _above_the_rest(cosines: Cosines) -> Floats:
    return np.asarray(cosines.max(axis=1) - np.median(cosines, axis=1), np.float64)


def _spread(cosines: Cosines) -> Floats:
    return np.asarray(cosines.std(axis=1), np.float64)


# Larger = more like what the generator makes. Whether strangers lie too near to nothing or too near to something is the
# encoder's: the committed one puts them where the generator's pictures lie on average, far along a few directions.
SCORES: Mapping[str, Callable[[Cosines], Floats]] = {
    SERVED: _best,
    "mean of the best ten": _mean_of_ten,
    "best above the median": _above_the_rest,
    "deviation of all": _spread,
    "deviation of all, not too large": lambda cosines: -_spread(cosines),
}


def threshold(scores: Floats, false_alarms: float = FALSE_ALARMS) -> float:
    """The value below which a further generated picture falls with a chance of at most `false_alarms`.

    Of n + 1 pictures of one source each is as likely as any other to have one of the k smallest scores (split conformal
    prediction; Vovk et al., 2005): one more lies below the k-th smallest of n with a chance of at most k / (n + 1).

    Raises `CalibrationError` where not even one picture stands for that share.
    """
    needed = math.ceil(1.0 / false_alarms) if 0.0 < false_alarms <= 1.0 else 0
    if not needed:
        raise CalibrationError("false_alarms", f"{false_alarms}; must be above 0 and at most 1")
    if len(scores) < needed:
        raise CalibrationError(
            "queries",
            f"{len(scores)} labelled; a false-alarm rate of {false_alarms:g} needs at least {needed}: make them with "
            f"`subject queries --validation {needed}` and label that split, or allow more with --false-alarms",
        )
    return _smallest(scores, false_alarms)


def margin(scores: Floats, false_alarms: float = FALSE_ALARMS) -> float:
    """How far above the threshold shares are whole again: where `MARGIN` times as many pictures lie below.

    An answer just above the threshold is hardly surer than one just below, so it must not differ by its whole sum.
    """
    return _smallest(scores, min(1.0, MARGIN * false_alarms)) - _smallest(scores, false_alarms)


def _smallest(scores: Floats, part: float) -> float:
    count = max(1, math.floor(part * (len(scores) + 1) * (1 + 1e-12)))
    return float(np.sort(scores)[min(count, len(scores)) - 1])


def detection(
    validation: Cosines, test: Cosines, foreign: Mapping[str, Cosines], false_alarms: float = FALSE_ALARMS
) -> list[dict[str, Any]]:
    """A row a score: threshold from `validation`, alarms on `test`, detection and AUROC on each foreign set."""
    rows = []
    for name, score in SCORES.items():
        scored = {title: score(cosines) for title, cosines in foreign.items()}
        rows.append(detection_row(name, score(validation), score(test), scored, false_alarms))
    return rows


def detection_row(
    name: str, known: Floats, generated: Floats, foreign: Mapping[str, Floats], false_alarms: float
) -> dict[str, Any]:
    """What a score finds at the threshold that `known` gives it, and with half of the alarms, as one of two flags."""
    cut, beside = threshold(known, false_alarms), _smallest(known, false_alarms / 2)
    row: dict[str, Any] = {
        "score": name,
        "threshold": cut,
        "false alarms": float((generated < cut).mean()),
    }
    for title, found in foreign.items():
        row[title] = {
            "detected": float((found < cut).mean()),
            "detected at half the alarms": float((found < beside).mean()),
            "auroc": auroc(generated, found),
            "pictures": len(found),
        }
    return row


def auroc(inside: Floats, outside: Floats) -> float:
    """Chance that a generated picture scores above a foreign one, ties counted half (Hanley and McNeil, 1982)."""
    ranks = rankdata(np.concatenate([inside, outside]))[: len(inside)]
    pairs = len(inside) * len(outside)
    return float((ranks.sum() - len(inside) * (len(inside) + 1) / 2) / pairs)
