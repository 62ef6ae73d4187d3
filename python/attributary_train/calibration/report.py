"""What a calibration reaches on queries that it was not fitted to: skill, reliability, sums, creators' totals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from attributary.bundle.manifest import Calibration, ShareCalibration
from attributary_train.errors import CalibrationError
from attributary_train.evaluation.shares import named_groups, shares_of
from attributary_train.evaluation.stats import Interval, percentile_interval, resamples

from .beside import share_aim
from .fit import Target, by_creator, log_losses, unnamed
from .held import KINDS, Held
from .interval import COVERAGE, coverage
from .reliability import Floats, Reliability, reliability
from .skill import Climatology, skills

TOP = 10
# Most creators of a query have nearly nothing: these are the ones that an answer shows.
TOP_CREATORS = 3
CREATORS_AIM = 0.3
LARGEST_AIM = 0.1
COVERED_WITHIN = 0.03
# The readings that are drawn.
PANELS = (f"top {TOP} items", "items with a share", f"top {TOP_CREATORS} creators", "diffuse part")
_DRAWS = 2000
_CREATORS_SHOWN = 12
_RANKS = (10, 50, 100)
Row = dict[str, Any]


def measure(
    held: Held,
    calibration: Calibration,
    candidates: int | None,
    climatologies: Mapping[str, Climatology],
    fitted: Mapping[str, Any] | None = None,
) -> Row:
    """Tables of a report by kind of query; raises `CalibrationError` if the teacher was not asked about every item.

    `fitted`: what a calibration file says of its fit: the interval of a constant, and how coverage varies.
    """
    if not held.complete:
        raise CalibrationError("labels", "cover candidates only; a report needs the teacher on every item")
    known = (
        calibration.pixels.certainty(held.statistics) if calibration.pixels else np.ones(len(held.queries))
    )
    by_kind = {"image": calibration.image, "image_and_prompt": calibration.image_and_prompt}
    of_all = (fitted or {}).get("constant_interval", {})
    same = {kind: _constant(by_kind[kind], of_all.get(kind)) for kind in KINDS}
    results = {
        kind: _kind(held, kind, by_kind[kind], candidates, climatologies[kind], same[kind], known)
        for kind in KINDS
    }
    for kind in KINDS:
        results[kind]["creators' intervals"] |= _right_rule(fitted or {}, kind, len(held.queries))
    return results


def _right_rule(fitted: Mapping[str, Any], kind: str, queries: int) -> Row:
    """Between what the coverage of a rule that is right would lie nineteen times in twenty, with as many queries."""
    deviation = fitted.get("intervals", {}).get(kind, {}).get("deviation of coverage")
    if deviation is None:
        return {}
    # Of as many queries as were fitted to; half of the variance is that of the queries that are asked.
    wide = 1.96 * deviation * (0.5 + 0.5 * fitted.get("queries", queries) / queries) ** 0.5
    return {"a right rule": {"low": COVERAGE - wide, "high": COVERAGE + wide}}


def _constant(by: ShareCalibration, interval: Any) -> ShareCalibration | None:
    """A calibration whose interval is the same for every share; None where the file holds none."""
    return None if not interval else replace(by, interval=tuple(map(tuple, interval)))


def _kind(
    held: Held,
    kind: str,
    shares_by: ShareCalibration,
    candidates: int | None,
    climatology: Climatology,
    constant: ShareCalibration | None,
    certainty: Floats,
) -> Row:
    similarity, target = held.similarity[kind], held.target
    said, diffuse = shares_of(similarity, held.grouped, shares_by, candidates, certainty)
    queries = np.arange(len(said))
    top = np.argsort(-similarity, axis=1, kind="stable")[:, :TOP]
    creators, of_item = np.unique(held.items.creators), held.creator_of_item
    told_creators, seen_creators = by_creator(said, of_item), by_creator(target.mass, of_item)
    named = told_creators > 0
    unseen = target.diffuse + unnamed(target, said)
    pairs = {
        "all items": _pairs(said, target.mass, queries),
        "items with a share": _masked(said, target.mass, said > 0),
        f"top {TOP} items": _pairs(
            np.take_along_axis(said, top, axis=1), np.take_along_axis(target.mass, top, axis=1), queries
        ),
        "creators": _masked(told_creators, seen_creators, named),
        f"top {TOP_CREATORS} creators": _pairs(*_largest(told_creators, seen_creators), queries),
        # What an answer does not name is diffuse to whoever reads it.
        "diffuse part": reliability(diffuse, unseen, queries),
    }
    sums = said.sum(axis=1)
    named_items = named_groups(similarity, held.grouped, shares_by.reach)
    flagged = (similarity.max(axis=1) < shares_by.ood_similarity) | (certainty == 0)
    known = ~flagged
    losses = log_losses(target, said, diffuse, named_items)[known]
    return {
        # A flagged answer says nothing of its items, so it has no log loss; how many there are stands beside.
        "flagged": int(flagged.sum()),
        "skill": skills(
            similarity[known],
            held.grouped,
            Target(target.mass[known], target.diffuse[known], target.stands_for[known]),
            of_item,
            climatology,
            said[known],
            diffuse[known],
        ),
        "calibration": asdict(shares_by),
        "creators' intervals": coverage(shares_by, told_creators, seen_creators, constant),
        "loss": float(losses.mean()),
        "least loss": float(_least_losses(target, named_items)[known].mean()),
        "loss of even shares": float(_even_losses(target, named_items)[known].mean()),
        "reliability": {name: _reliability_row(found) for name, found in pairs.items()},
        "shares that are exactly 0": float((said == 0).mean()),
        "mass that got an exact 0": float(unnamed(target, said).mean()),
        "items with a share, a query": float((said > 0).sum(axis=1).mean()),
        "items with mass, a query": float((target.mass > 0).sum(axis=1).mean()),
        "part of what is paid that lies below a rank": _below(similarity, said),
        "largest sum of shares": float(sums.max()),
        "diffuse part": {
            "predicted": float(diffuse.mean()),
            "teacher": float(unseen.mean()),
            "of which under the floor": float(target.diffuse.mean()),
        },
        "total variation": float(_variation(said, diffuse, target).mean()),
        "by prompt": _by_prompt(held, said, diffuse, target),
        "creators": creator_totals(told_creators, seen_creators, creators.tolist()),
    }


def creator_totals(said: Floats, seen: Floats, names: list[str]) -> Row:
    """Mean shares of creators over queries, predicted and the teacher's, with intervals from resampled queries.

    The interval says how far a creator's total could have fallen had other queries been asked; predicted and teacher's
    totals are resampled together, so that the interval of their difference is that of the student's error.
    """
    draws = resamples(len(said), _DRAWS)
    order = np.argsort(-said.mean(axis=0), kind="stable")
    rows, covered = [], []
    for at in order.tolist():
        if not (said[:, at].any() or seen[:, at].any()):
            continue
        one = said[:, at][draws].mean(axis=1)
        other = seen[:, at][draws].mean(axis=1)
        predicted = percentile_interval(float(said[:, at].mean()), one)
        difference = percentile_interval(float((said[:, at] - seen[:, at]).mean()), one - other)
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
    """Skill of both kinds against what was asked for. Nothing is called met that a constant meets as well."""
    found = []
    for kind in KINDS:
        skill = results[kind]["skill"]
        for name, least, clear in (
            ("items, log loss", 0.0, True),
            ("creators, Brier", CREATORS_AIM, False),
            ("diffuse part, Brier", 0.0, True),
        ):
            row = skill[name]
            # The climatology's own skill is 0. What every answer says alike, by rank alone, may still tell creators.
            constant = row.get("skill of the rank profile", 0.0)
            met = row["low"] > least if clear else row["skill"] >= least and row["skill"] > constant
            note = f"95% [{row['low']:.3f}, {row['high']:.3f}]; climatology {row['climatology']:.4f}"
            note += f"; the rank profile's skill {constant:.3f}" if constant else ""
            # By rank alone, which is the climatology of items; of items also the same share for all who are named.
            rival = row.get("skill of the rank profile")
            if name.startswith("items") and "loss of even shares" in results[kind]:
                rival = 1.0 - results[kind]["loss of even shares"] / row["climatology"]
            found.append(share_aim(f"skill, {name}, {kind}", row["skill"], least, met, note, 0.0, rival))
        if found_intervals := _interval_aim(results[kind].get("creators' intervals", {}), kind):
            found.append(found_intervals)
        largest = skill["largest tenth of the items' shares"]
        off, constant = (abs(largest[f"{who}off by"]["value"]) for who in ("", "climatology, "))
        met = off <= LARGEST_AIM < constant
        between = largest["off by"]
        note = f"told {largest['told']:.4f}, seen {largest['seen']:.4f}, 95% of told / seen - 1 "
        note += f"[{between['low']:.3f}, {between['high']:.3f}]; a constant is off by {constant:.3f}"
        if constant <= LARGEST_AIM:
            note += ": it meets this too, so it is not called met"
        name = f"largest tenth, part that it is off by, {kind}"
        found.append(share_aim(name, off, LARGEST_AIM, met, note, constant))
    return found


def _interval_aim(row: Row, kind: str) -> Row | None:
    covered, skill = row.get("covered"), row.get("skill")
    if covered is None:
        return None
    note = f"95% [{row['low']:.3f}, {row['high']:.3f}], {row['width']:.3f} wide on average"
    if right := row.get("a right rule"):
        note += f"; a rule that is right gives {right['low']:.3f} to {right['high']:.3f} with as many queries"
    if row.get("covered of those who hold something") is not None:
        note += f"; of those who hold something {row['covered of those who hold something']:.3f}"
    if skill is not None:
        other = row["constant"]
        note += f"; one interval for every share covers {other['covered']:.3f}, {other['width']:.3f} wide; "
        note += f"interval score better by {skill:.2f}"
    # What covers as often by being wide for all is no better than a constant.
    met = abs(covered - COVERAGE) <= COVERED_WITHIN and (skill is None or skill > 0.0)
    constant = row["constant"]["covered"] if skill is not None else None
    return share_aim(f"coverage of creators' intervals, {kind}", covered, COVERAGE, met, note, constant)


def _largest(stated: Floats, seen: Floats) -> tuple[Floats, Floats]:
    """The creators with the largest shares of each query, [Q, TOP_CREATORS] of both."""
    best = np.argsort(-stated, axis=1, kind="stable")[:, :TOP_CREATORS]
    return np.take_along_axis(stated, best, axis=1), np.take_along_axis(seen, best, axis=1)


def _pairs(said: Floats, seen: Floats, queries: npt.NDArray[np.int64]) -> Reliability:
    return reliability(said.ravel(), seen.ravel(), np.repeat(queries, said.shape[1]))


def _masked(said: Floats, seen: Floats, mask: npt.NDArray[np.bool_]) -> Reliability:
    return reliability(said[mask], seen[mask], np.nonzero(mask)[0])


def _reliability_row(found: Reliability) -> Row:
    return {
        "expected calibration error": interval(found.error),
        "mean absolute error": found.absolute,
        "predictions": found.count,
        "bins": [asdict(one) for one in found.bins],
    }


def _below(similarity: npt.NDArray[np.float32], said: Floats) -> Mapping[str, float]:
    """Of the shares told, the part of items that an answer's list of so many does not show."""
    order = np.argsort(-similarity, axis=1, kind="stable")
    by_rank = np.take_along_axis(said, order, axis=1)
    paid = max(float(by_rank.sum()), 1e-12)
    return {f"{rank}": float(by_rank[:, rank:].sum()) / paid for rank in _RANKS}


def _least_losses(target: Target, named: npt.NDArray[np.bool_]) -> Floats:
    held = np.where(named, target.mass, 0.0)
    return log_losses(target, held, 1.0 - held.sum(axis=1), named)


def _even_losses(target: Target, named: npt.NDArray[np.bool_]) -> Floats:
    even = 1.0 / (named.sum(axis=1) + 1.0)
    return log_losses(target, np.broadcast_to(even[:, None], named.shape), even, named)


def _variation(said: Floats, diffuse: Floats, target: Target) -> Floats:
    named = np.where(said > 0, target.mass, 0.0)
    apart = np.abs(said - named).sum(axis=1) + np.abs(diffuse - 1.0 + named.sum(axis=1))
    return np.asarray(apart / 2, np.float64)


def _by_prompt(held: Held, said: Floats, diffuse: Floats, target: Target) -> Mapping[str, Row]:
    variation = _variation(said, diffuse, target)
    out = {}
    for name in sorted(set(held.queries.kinds)):
        rows = [at for at, kind in enumerate(held.queries.kinds) if kind == name]
        out[name] = {
            "queries": len(rows),
            "diffuse predicted": float(diffuse[rows].mean()),
            "diffuse of the teacher": float((target.diffuse + unnamed(target, said))[rows].mean()),
            "total variation": float(variation[rows].mean()),
        }
    return out
