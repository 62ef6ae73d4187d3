"""A student beside chance, feature baselines and the teacher itself: agreement on held-out queries of every kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from attributary_train.errors import EvaluationError
from attributary_train.evaluation.agreement import FRACTIONS, Agreement, agree
from attributary_train.evaluation.ranking import Floats, count_of
from attributary_train.evaluation.scores import ScoreFile
from attributary_train.evaluation.self_consistency import self_consistency
from attributary_train.evaluation.stats import mean_interval, paired_interval
from attributary_train.evaluation.tables import Row, aim, interval_row, report

# Aims of the student: the paper's mAP on COCO, and how much of it a query without a prompt may lose.
AIM_MAP = 0.72
AIM_LOSS = 0.15


def run_student_agreement(
    truth: ScoreFile,
    students: Sequence[ScoreFile],
    without_prompt: Mapping[str, ScoreFile],
    baselines: Sequence[ScoreFile],
    again: ScoreFile | None,
    kinds: Mapping[str, str],
) -> Row:
    """Report of every method against `truth` (the teacher on the whole training set).

    students: asked with prompts; without_prompt: the same students by method name, asked without; again: the teacher
    under other noise; kinds: kind of prompt by query name. Raises `EvaluationError` for scores of another model.
    """
    chance = ScoreFile(
        "chance",
        np.random.default_rng(0).random(truth.scores.shape, np.float32),
        truth.queries,
        truth.ids,
        truth.weights,
    )
    found: dict[str, Agreement] = {}
    for file in [chance, *baselines, *students, *without_prompt.values()]:
        if file.weights != truth.weights:
            raise EvaluationError(
                f"{file.method}.weights", f"{file.weights[:12]}, but truth is of {truth.weights[:12]}"
            )
        if file.method in found:
            raise EvaluationError("scores", f"two files of method {file.method}")
        found[file.method] = agree(truth.scores, file.aligned(truth.queries, truth.ids, truth.digests))
    middle = f"mAP({count_of(FRACTIONS[1], len(truth.ids))})"
    rows = [
        {"method": name, **{m: _short(v.mean()) for m, v in each.rows.items()}, **_ends(each.rows[middle])}
        for name, each in found.items()
    ]
    tables: Row = {"agreement": rows, f"{middle} by kind of prompt": _by_kind(found, middle, truth, kinds)}
    if again is not None:
        both = self_consistency(truth, again)
        tables["teacher against itself"] = [
            {"method": truth.method, "queries": len(both.rows[middle])}
            | {measure: _short(values.mean()) for measure, values in both.rows.items()}
            | _ends(both.rows[middle])
        ]
    best = max(
        (file.method for file in baselines), key=lambda name: found[name].rows[middle].mean(), default=None
    )
    if best is not None:
        tables["differences"] = [
            {"method": file.method, "minus": best, "measure": middle}
            | interval_row(paired_interval(found[file.method].rows[middle], found[best].rows[middle]))
            for file in students
        ]
    config: Row = {
        "protocol": "agreement of students",
        "truth": truth.method,
        "model": truth.weights,
        "queries": len(truth.queries),
        "items": len(truth.ids),
        "intervals": "percentile bootstrap over queries, 95%",
        "students": [file.facts for file in students],
    }
    return report("evaluate-student", config, tables, _aims(found, students, without_prompt, middle))


def _by_kind(
    found: Mapping[str, Agreement], middle: str, truth: ScoreFile, kinds: Mapping[str, str]
) -> list[Row]:
    of = np.array([kinds[name] for name in truth.queries])
    names = sorted(set(of.tolist()))
    rows: list[Row] = [{"method": "queries", **{kind: int((of == kind).sum()) for kind in names}}]
    for method, each in found.items():
        rows.append(
            {"method": method, **{kind: _short(each.rows[middle][of == kind].mean()) for kind in names}}
        )
    return rows


def _aims(
    found: Mapping[str, Agreement],
    students: Sequence[ScoreFile],
    without: Mapping[str, ScoreFile],
    middle: str,
) -> list[Row]:
    aims = []
    for file in students:
        value = float(found[file.method].rows[middle].mean())
        aims.append(aim(f"{middle} of {file.method}", value, AIM_MAP, "mAP", value >= AIM_MAP))
        other = without.get(file.method)
        if other is not None:
            lost = 1.0 - float(found[other.method].rows[middle].mean()) / value
            aims.append(
                aim(
                    f"{middle} lost without a prompt, {file.method}",
                    lost,
                    AIM_LOSS,
                    "share",
                    lost <= AIM_LOSS,
                )
            )
    return aims


def _ends(values: Floats) -> Row:
    interval = mean_interval(values)
    return {"low": _short(interval.low), "high": _short(interval.high)}


def _short(value: float) -> float:
    return float(f"{value:.4g}")
