"""What a calibration reaches on queries that it was not fitted to: reliability, zeros, sums, creators' totals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from attributary.bundle.manifest import Calibration, ShareCalibration
from attributary_train.evaluation.stats import Interval, percentile_interval, resamples

from .errors import CalibrationError
from .fit import Target, log_losses, unnamed
from .held import KINDS, Held
from .reliability import Floats, Reliability, reliability
from .shares import shares_of

TOP = 10
# Most creators of a query have nearly nothing: these are the ones that an answer shows.
TOP_CREATORS = 3
ECE_AIM = 0.05
# The readings that are drawn and held to the aim.
PANELS = (f"top {TOP} items", "items with a share", f"top {TOP_CREATORS} creators", "diffuse part")
_DRAWS = 2000
_CREATORS_SHOWN = 12
Row = dict[str, Any]


def measure(held: Held, calibration: Calibration, candidates: int | None) -> Row:
    """Tables of a report by kind of query; raises `CalibrationError` if the teacher was not asked about every item."""
    if not held.complete:
        raise CalibrationError("labels", "cover candidates only; a report needs the teacher on every item")
    by_kind = {"image": calibration.image, "image_and_prompt": calibration.image_and_prompt}
    return {kind: _kind(held, kind, by_kind[kind], candidates) for kind in KINDS}


def _kind(held: Held, kind: str, shares_by: ShareCalibration, candidates: int | None) -> Row:
    similarity, target = held.similarity[kind], held.target
    told, diffuse = shares_of(similarity, held.grouped, shares_by, candidates)
    queries = np.arange(len(told))
    top = np.argsort(-similarity, axis=1, kind="stable")[:, :TOP]
    creators, of_item = np.unique(held.items.creators, return_inverse=True)
    told_creators, seen_creators = by_creator(told, of_item), by_creator(target.mass, of_item)
    named = told_creators > 0
    unseen = target.diffuse + unnamed(target, told)
    pairs = {
        "all items": _pairs(told, target.mass, queries),
        "items with a share": _masked(told, target.mass, told > 0),
        f"top {TOP} items": _pairs(
            np.take_along_axis(told, top, axis=1), np.take_along_axis(target.mass, top, axis=1), queries
        ),
        "creators": _masked(told_creators, seen_creators, named),
        f"top {TOP_CREATORS} creators": _pairs(*_largest(told_creators, seen_creators), queries),
        # What an answer does not name is diffuse to whoever reads it.
        "diffuse part": reliability(diffuse, unseen, queries),
    }
    sums = told.sum(axis=1)
    losses = log_losses(target, told, diffuse)
    return {
        "calibration": asdict(shares_by),
        "loss": float(losses.mean()),
        "least loss": float(log_losses(target, np.where(told > 0, target.mass, 0.0), unseen).mean()),
        "loss of even shares": _even_loss(target),
        "reliability": {name: _reliability_row(found) for name, found in pairs.items()},
        "shares that are exactly 0": float((told == 0).mean()),
        "mass that got an exact 0": float(unnamed(target, told).mean()),
        "items with a share, a query": float((told > 0).sum(axis=1).mean()),
        "items with mass, a query": float((target.mass > 0).sum(axis=1).mean()),
        "largest sum of shares": float(sums.max()),
        "diffuse part": {
            "predicted": float(diffuse.mean()),
            "teacher": float(unseen.mean()),
            "of which under the floor": float(target.diffuse.mean()),
        },
        "total variation": float(_variation(told, diffuse, target).mean()),
        "by prompt": _by_prompt(held, told, diffuse, target),
        "creators": creator_totals(told_creators, seen_creators, creators.tolist()),
    }


def by_creator(values: Floats, creator_of_item: npt.NDArray[np.int64]) -> Floats:
    """Sums over creators, [Q, N] -> [Q, K]."""
    out = np.zeros((len(values), int(creator_of_item.max()) + 1))
    for row, found in zip(out, values, strict=True):
        row += np.bincount(creator_of_item, found, minlength=out.shape[1])
    return out


def creator_totals(told: Floats, seen: Floats, names: list[str]) -> Row:
    """Mean shares of creators over queries, predicted and the teacher's, with intervals from resampled queries.

    The interval says how far a creator's total could have fallen had other queries been asked; predicted and teacher's
    totals are resampled together, so that the interval of their difference is that of the student's error.
    """
    draws = resamples(len(told), _DRAWS)
    order = np.argsort(-told.mean(axis=0), kind="stable")
    rows, covered = [], []
    for at in order.tolist():
        if not (told[:, at].any() or seen[:, at].any()):
            continue
        one = told[:, at][draws].mean(axis=1)
        other = seen[:, at][draws].mean(axis=1)
        predicted = percentile_interval(float(told[:, at].mean()), one)
        difference = percentile_interval(float((told[:, at] - seen[:, at]).mean()), one - other)
        covered.append(difference.low <= 0.0 <= difference.high)
        rows.append(
            {
                "creator": names[at],
                "predicted": interval(predicted),
                "teacher": interval(percentile_interval(float(seen[:, at].mean()), other)),
                "difference": interval(difference),
            }
        )
    return {
        "count": len(rows),
        "difference includes 0": float(np.mean(covered)) if covered else None,
        "largest": rows[:_CREATORS_SHOWN],
    }


def interval(found: Interval) -> Row:
    """Value and ends."""
    return {"value": found.value, "low": found.low, "high": found.high}


def aims(results: Row) -> list[Row]:
    """Expected calibration error of both kinds against the aim, in the readings that could hide nothing."""
    found = []
    for kind in KINDS:
        rows = results[kind]["reliability"]
        for name in PANELS:
            value = rows[name]["expected calibration error"]["value"]
            found.append(
                {
                    "name": f"expected calibration error, {name}, {kind}",
                    "value": round(value, 5),
                    "aim": ECE_AIM,
                    "unit": "share",
                    "met": value <= ECE_AIM,
                    "note": f"{len(rows[name]['bins'])} bins of equally many predictions",
                }
            )
    return found


def _largest(told: Floats, seen: Floats) -> tuple[Floats, Floats]:
    """The creators with the largest shares of each query, [Q, TOP_CREATORS] of both."""
    best = np.argsort(-told, axis=1, kind="stable")[:, :TOP_CREATORS]
    return np.take_along_axis(told, best, axis=1), np.take_along_axis(seen, best, axis=1)


def _pairs(told: Floats, seen: Floats, queries: npt.NDArray[np.int64]) -> Reliability:
    return reliability(told.ravel(), seen.ravel(), np.repeat(queries, told.shape[1]))


def _masked(told: Floats, seen: Floats, mask: npt.NDArray[np.bool_]) -> Reliability:
    return reliability(told[mask], seen[mask], np.nonzero(mask)[0])


def _reliability_row(found: Reliability) -> Row:
    return {
        "expected calibration error": interval(found.error),
        "mean absolute error": found.absolute,
        "predictions": found.count,
        "bins": [asdict(one) for one in found.bins],
    }


def _even_loss(target: Target) -> float:
    count = target.mass.shape[1] + 1
    even = np.full(target.mass.shape, 1.0 / count)
    return float(log_losses(target, even, np.full(len(even), 1.0 / count)).mean())


def _variation(told: Floats, diffuse: Floats, target: Target) -> Floats:
    named = np.where(told > 0, target.mass, 0.0)
    apart = np.abs(told - named).sum(axis=1) + np.abs(diffuse - 1.0 + named.sum(axis=1))
    return np.asarray(apart / 2, np.float64)


def _by_prompt(held: Held, told: Floats, diffuse: Floats, target: Target) -> Mapping[str, Row]:
    variation = _variation(told, diffuse, target)
    out = {}
    for name in sorted(set(held.queries.kinds)):
        rows = [at for at, kind in enumerate(held.queries.kinds) if kind == name]
        out[name] = {
            "queries": len(rows),
            "diffuse predicted": float(diffuse[rows].mean()),
            "diffuse of the teacher": float((target.diffuse + unnamed(target, told))[rows].mean()),
            "total variation": float(variation[rows].mean()),
        }
    return out
