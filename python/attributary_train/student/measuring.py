"""A student against labels: mAP, rank correlation and NDCG over the items that the teacher scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from attributary_train.evaluation.agreement import FRACTIONS
from attributary_train.evaluation.ranking import (
    average_precision_rows,
    count_of,
    ndcg_rows,
    spearman_rows,
)
from attributary_train.evaluation.stats import mean_interval

from .labelled import Labelled

Scores = npt.NDArray[np.float32]


def against_labels(scores: Scores, labels: Labelled) -> dict[str, npt.NDArray[np.float64]]:
    """Figures a query, float64 [Q], of predictions float32 [Q, N] for all items; only labelled candidates are compared.

    L is counted from all N items. Where a query has candidates only, a figure is that of re-ranking them, a little
    higher than over the whole corpus.
    """
    predicted = np.take_along_axis(scores, labels.rows, axis=1)
    rows = {
        f"mAP({count_of(fraction, labels.items)})": average_precision_rows(
            labels.scores, predicted, count_of(fraction, labels.items)
        )
        for fraction in FRACTIONS
    }
    rows["spearman"] = spearman_rows(labels.scores, predicted)
    rows["ndcg"] = ndcg_rows(labels.scores, predicted)
    return rows


def table_row(
    name: str, query: str, rows: Mapping[str, npt.NDArray[np.float64]], kinds: Sequence[str]
) -> dict[str, Any]:
    """One line of a table: every figure, the middle mAP with its interval and by kind of prompt."""
    out: dict[str, Any] = {"student": name, "query": query}
    precisions = [figure for figure in rows if figure.startswith("mAP")]
    # In a small corpus two of the fractions may be the same number of items.
    middle = precisions[len(precisions) // 2]
    for figure, values in rows.items():
        out[figure] = round(float(values.mean()), 4)
    interval = mean_interval(rows[middle])
    out |= {f"{middle} low": round(interval.low, 4), f"{middle} high": round(interval.high, 4)}
    which = np.array(kinds)
    for kind in sorted(set(kinds)):
        out[f"{middle} {kind}"] = round(float(rows[middle][which == kind].mean()), 4)
    return out
