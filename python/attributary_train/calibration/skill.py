"""Is an answer worth more than a constant? Proper scores of shares beside those of a climatology.

A climatology says the same of every picture: for items the mean mass by rank, for creators their numbers of items, for
the diffuse part its mean. It is calibrated by construction, so that an expected calibration error cannot tell it from
an answer; a proper score does. Skill is 1 - score / that of the climatology: 0 for what knows no more, 1 for all.

Items are near-duplicate groups in the order of the answer; what it does not name is one class, "nobody". Both say
something about these same classes, which depend on cosines alone. Creators are held against all of the teacher's mass,
so that what is left unnamed costs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import isotonic_regression  # type: ignore[import-untyped]

from attributary_train.errors import CalibrationError
from attributary_train.evaluation.shares import Columns, Floats
from attributary_train.evaluation.stats import percentile_interval, resamples

from .fit import Target, by_creator

BINS = 10
_DRAWS = 2000
_LEAST = 1e-6
Row = dict[str, Any]


@dataclass(frozen=True)
class Climatology:
    """What a constant says: `profile`, mean mass of the groups by rank, falling; `nobody`, the mean diffuse part."""

    profile: Floats
    nobody: float

    @classmethod
    def of(
        cls, similarity: npt.NDArray[np.float32], columns: Columns, target: Target, reach: int
    ) -> Climatology:
        """From the queries that shares are fitted to, never from those that are reported on."""
        _, seen = ranked(similarity, columns, reach, target.mass)
        mean = seen.mean(axis=0)
        return cls(isotonic_regression(mean, increasing=False).x, float(target.diffuse.mean()))

    @classmethod
    def read(cls, raw: Any) -> Climatology:
        """From `as_json`; raises `CalibrationError` where it is not one."""
        try:
            made = cls(np.array(raw["profile"], np.float64), float(raw["nobody"]))
        except (KeyError, TypeError, ValueError) as error:
            raise CalibrationError("calibration", "holds no climatology: fit it again") from error
        if made.profile.ndim != 1 or not np.isfinite(made.profile).all() or made.profile.sum() > 1:
            raise CalibrationError("calibration", "its climatology is no part of 1 by rank: fit it again")
        return made

    def as_json(self) -> Row:
        """Plain JSON."""
        return {"profile": [round(float(one), 6) for one in self.profile], "nobody": round(self.nobody, 6)}


def ranked(
    similarity: npt.NDArray[np.float32], columns: Columns, reach: int, *values: Floats
) -> tuple[npt.NDArray[Any], ...]:
    """Groups by rank, int64 [Q, K], and each of `values` [Q, N] summed over them, [Q, K]; K = reach, or all."""
    order = np.argsort(-columns.nearest(similarity), axis=1, kind="stable")
    order = order[:, :reach] if reach else order
    return order, *(np.take_along_axis(columns.summed(one), order, axis=1) for one in values)


def skills(
    similarity: npt.NDArray[np.float32],
    columns: Columns,
    target: Target,
    creator_of_item: npt.NDArray[np.int64],
    climatology: Climatology,
    predicted: Floats,
    diffuse: Floats,
) -> Row:
    """Proper scores of shares [Q, N] and diffuse parts [Q] of unflagged answers, beside the climatology's."""
    reach = len(climatology.profile)
    order, said, seen = ranked(similarity, columns, reach, predicted, target.mass)
    rest = 1.0 - seen.sum(axis=1)
    constant = np.broadcast_to(climatology.profile, seen.shape)
    constant_rest = np.full(len(rest), 1.0 - climatology.profile.sum())
    creators_seen = by_creator(target.mass, creator_of_item)
    creators_predicted = by_creator(predicted, creator_of_item)
    of_all = np.bincount(creator_of_item) / len(creator_of_item)
    by_count = np.broadcast_to(of_all * (1.0 - climatology.nobody), creators_seen.shape)
    by_rank = by_creator(_spread(columns, order, climatology.profile, predicted.shape[1]), creator_of_item)
    # The same constant with no more to give than the answers gave: what differs is then to whom alone.
    by_count_cut = np.broadcast_to(of_all * (1.0 - diffuse.mean()), creators_seen.shape)
    return {
        "items, log loss": _skill(_log(said, diffuse, seen, rest), _log(constant, constant_rest, seen, rest)),
        "items, Brier": _skill(_brier(said, seen), _brier(constant, seen)) | _decomposed(said, seen),
        "creators, Brier": _skill(_brier(creators_predicted, creators_seen), _brier(by_count, creators_seen))
        | _decomposed(creators_predicted, creators_seen)
        | {
            "skill over the same sum by item counts": _skill_of(
                creators_predicted, by_count_cut, creators_seen
            ),
            "skill of the rank profile": _skill_of(by_rank, by_count, creators_seen),
        },
        "diffuse part, Brier": _skill((diffuse - rest) ** 2, (constant_rest - rest) ** 2)
        | _decomposed(diffuse[:, None], rest[:, None])
        | {"correlation": _correlation(diffuse, rest)},
        "largest tenth of the items' shares": _largest(said, constant, seen),
    }


def _spread(columns: Columns, order: npt.NDArray[np.int64], profile: Floats, items: int) -> Floats:
    """The profile on the items of each query's groups by rank, float64 [Q, N], evenly within a group."""
    sizes = np.diff(np.append(columns.starts, items))
    groups = np.zeros((len(order), len(sizes)))
    np.put_along_axis(groups, order, np.broadcast_to(profile, order.shape), axis=1)
    out = np.empty((len(order), items))
    out[:, columns.order] = (groups / sizes)[:, columns.group]
    return out


def _log(predicted: Floats, nobody: Floats, seen: Floats, rest: Floats) -> Floats:
    logs = np.log(np.maximum(predicted, _LEAST))
    return np.asarray(-(seen * logs).sum(axis=1) - rest * np.log(np.maximum(nobody, _LEAST)), np.float64)


def _brier(predicted: Floats, seen: Floats) -> Floats:
    return np.asarray(((predicted - seen) ** 2).sum(axis=1), np.float64)


def _skill_of(predicted: Floats, constant: Floats, seen: Floats) -> float:
    return float(1.0 - _brier(predicted, seen).mean() / _brier(constant, seen).mean())


def _skill(scores: Floats, constant: Floats) -> Row:
    """Means, and 1 - their ratio with the interval that resampled queries give it."""
    draws = resamples(len(scores), _DRAWS)
    drawn = 1.0 - scores[draws].mean(axis=1) / constant[draws].mean(axis=1)
    found = percentile_interval(float(1.0 - scores.mean() / constant.mean()), drawn)
    return {
        "skill": found.value,
        "low": found.low,
        "high": found.high,
        "score": float(scores.mean()),
        "climatology": float(constant.mean()),
    }


def _decomposed(predicted: Floats, seen: Floats) -> Row:
    """Brier score a prediction = reliability - resolution + uncertainty + what bins hide (Murphy, 1973)."""
    said, saw = predicted.ravel(), seen.ravel()
    mean, reliability, resolution = saw.mean(), 0.0, 0.0
    for places in np.array_split(np.argsort(said, kind="stable"), min(BINS, len(said))):
        weight = len(places) / len(said)
        reliability += weight * (said[places].mean() - saw[places].mean()) ** 2
        resolution += weight * (saw[places].mean() - mean) ** 2
    uncertainty = float(saw.var())
    score = float(((said - saw) ** 2).mean())
    return {
        "reliability": float(reliability),
        "resolution": float(resolution),
        "uncertainty": uncertainty,
        "within bins": score - float(reliability) + float(resolution) - uncertainty,
    }


def _correlation(predicted: Floats, seen: Floats) -> float:
    both = predicted.std() > 0 and seen.std() > 0
    return float(np.corrcoef(predicted, seen)[0, 1]) if both else 0.0


def _largest(predicted: Floats, constant: Floats, seen: Floats) -> Row:
    """Mean of the largest tenth of the shares told, and of what was seen there; the constant's beside.

    They are chosen by what was told, which is fair: of shares told as 0.1 a tenth is expected. Chosen by what was seen
    they would hold more than anybody can tell, for what was seen has its noise; that is told as well.
    """
    row: Row = {}
    draws = resamples(len(predicted), _DRAWS)
    for name, said in (("", predicted), ("climatology, ", constant)):
        row[f"{name}told"], row[f"{name}seen"] = _tenth(said, said, seen)
        drawn = [_tenth(said[draw], said[draw], seen[draw]) for draw in draws]
        found = percentile_interval(
            row[f"{name}told"] / max(row[f"{name}seen"], _LEAST) - 1.0,
            np.array([one / max(other, _LEAST) - 1.0 for one, other in drawn]),
        )
        row[f"{name}off by"] = {"value": found.value, "low": found.low, "high": found.high}
    row["chosen by what was seen, told"], row["chosen by what was seen, seen"] = _tenth(seen, predicted, seen)
    return row


def _tenth(by: Floats, predicted: Floats, seen: Floats) -> tuple[float, float]:
    """Means of both over the largest tenth by one of them."""
    count = max(1, by.size // 10)
    places = np.argsort(-by.ravel(), kind="stable")[:count]
    return float(predicted.ravel()[places].mean()), float(seen.ravel()[places].mean())
