"""How well a fast method reproduces a teacher's ranking: mAP(L), rank correlation, NDCG, each with its interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from attributary_train.errors import EvaluationError
from attributary_train.evaluation.ranking import (
    Floats,
    Scores,
    average_precision_rows,
    count_of,
    ndcg_rows,
    overlap_rows,
    spearman_rows,
    top_rows,
)
from attributary_train.evaluation.stats import Interval, mean_interval

# The papers' 500, 1,000 and 4,000 of 118,287 images (Wang et al., NeurIPS 2024 and 2025).
FRACTIONS = (0.0042, 0.0085, 0.034)
HEAD = 0.1


@dataclass(frozen=True)
class Agreement:
    """Figures by name, a value a query, float64 [Q] each."""

    rows: dict[str, Floats]

    def intervals(self, *, seed: int = 0) -> dict[str, Interval]:
        """Means over queries with bootstrap intervals."""
        return {name: mean_interval(values, seed=seed) for name, values in self.rows.items()}


def agree(
    truth: Scores, predicted: Scores, fractions: Sequence[float] = FRACTIONS, *, overlap: bool = False
) -> Agreement:
    """Compare predictions with a teacher, both [Q, N] on the same queries and all items.

    mAP(L) for each fraction of N, Spearman over all items and over the teacher's first tenth, NDCG; with `overlap` also
    the share of common items among the first L.
    """
    if not len(truth):
        raise EvaluationError("queries", "there are none to compare")
    total = truth.shape[1]
    rows: dict[str, Floats] = {}
    for fraction in fractions:
        rows[f"mAP({count_of(fraction, total)})"] = average_precision_rows(
            truth, predicted, count_of(fraction, total)
        )
    if overlap:
        for fraction in fractions:
            rows[f"overlap({count_of(fraction, total)})"] = overlap_rows(
                truth, predicted, count_of(fraction, total)
            )
    rows["spearman"] = spearman_rows(truth, predicted)
    head = top_rows(truth, max(2, count_of(HEAD, total)) if total > 1 else 1)
    rows["spearman of the teacher's first tenth"] = spearman_rows(
        np.take_along_axis(truth, head, axis=1), np.take_along_axis(predicted, head, axis=1)
    )
    rows["ndcg"] = ndcg_rows(truth, predicted)
    return Agreement(rows)
