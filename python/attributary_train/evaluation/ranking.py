"""Measures of one ranking against another, a row a query. Larger scores rank first everywhere."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata  # type: ignore[import-untyped]

from attributary_train.errors import EvaluationError

Scores = npt.NDArray[np.floating[Any]]
Floats = npt.NDArray[np.float64]


def spearman_rows(first: Scores, second: Scores) -> Floats:
    """Spearman correlation of every row, float64 [R]; ties get their mean rank; a constant row correlates 0."""
    _same_shape(first, second)
    return pearson_rows(rankdata(first, axis=1), rankdata(second, axis=1))


def pearson_rows(first: Floats, second: Floats) -> Floats:
    """Pearson correlation of every row, over the last axis; 0 where a row is constant."""
    a = first - first.mean(axis=-1, keepdims=True)
    b = second - second.mean(axis=-1, keepdims=True)
    size = np.sqrt((a * a).sum(axis=-1) * (b * b).sum(axis=-1))
    return cast(Floats, np.divide((a * b).sum(axis=-1), size, out=np.zeros_like(size), where=size > 0))


def count_of(fraction: float, total: int) -> int:
    """How many items a fraction of the training set is: rounded, at least 1."""
    if not 0.0 < fraction < 1.0:
        raise EvaluationError("fraction", f"{fraction}; must be between 0 and 1")
    return max(1, round(fraction * total))


def top_rows(scores: Scores, count: int) -> npt.NDArray[np.int64]:
    """Positions of the `count` best of every row, best first, int64 [R, count]; ties go to the earlier position."""
    if not 1 <= count <= scores.shape[1]:
        raise EvaluationError("K", f"{count}; must be between 1 and the {scores.shape[1]} items")
    return np.argsort(-scores.astype(np.float64), axis=1, kind="stable")[:, :count]


def overlap_rows(first: Scores, second: Scores, count: int) -> Floats:
    """Share of the `count` best that two rankings have in common, float64 [R]."""
    _same_shape(first, second)
    rows = zip(top_rows(first, count), top_rows(second, count), strict=True)
    return np.array([len(np.intersect1d(a, b)) / count for a, b in rows])


def average_precision_rows(truth: Scores, predicted: Scores, count: int) -> Floats:
    """AP(L) of every row, float64 [R]: positives are the `count` best of `truth`, and the whole predicted list is read.

    Sum over thresholds of (recall gained) x (precision), as `sklearn.metrics.average_precision_score` defines it: items
    with the same score enter together, so that a constant prediction gets L / N whatever the items' order. This is the
    AP behind mAP(L) of Wang et al. (NeurIPS 2025); there is no cut-off.
    """
    _same_shape(truth, predicted)
    out = np.empty(len(truth))
    for row, best in enumerate(top_rows(truth, count)):
        positive = np.zeros(truth.shape[1], bool)
        positive[best] = True
        order = np.argsort(-predicted[row].astype(np.float64), kind="stable")
        hits, sorted_scores = np.cumsum(positive[order]), predicted[row][order]
        ends = np.flatnonzero(np.append(sorted_scores[1:] != sorted_scores[:-1], True))
        precision = hits[ends] / (ends + 1)
        out[row] = (np.diff(hits[ends], prepend=0) * precision).sum() / count
    return out


def ndcg_rows(truth: Scores, predicted: Scores) -> Floats:
    """NDCG of the whole list, float64 [R] (Järvelin and Kekäläinen, 2002): gain by true influence, log2 discount.

    An item's gain is its score above the query's median, or 0: where most items have a common offset, as losses after
    unlearning do, the offset would otherwise drown what differs. A row without a gain counts 1. Predicted ties keep the
    items' order.
    """
    _same_shape(truth, predicted)
    gains = np.clip(truth.astype(np.float64) - np.median(truth, axis=1, keepdims=True), 0.0, None)
    discount = 1.0 / np.log2(np.arange(truth.shape[1]) + 2.0)
    order = np.argsort(-predicted.astype(np.float64), axis=1, kind="stable")
    found = (np.take_along_axis(gains, order, axis=1) * discount).sum(axis=1)
    best = (-np.sort(-gains, axis=1) * discount).sum(axis=1)
    return cast(Floats, np.divide(found, best, out=np.ones_like(best), where=best > 0))


def _same_shape(first: Scores, second: Scores) -> None:
    if first.ndim != 2 or first.shape != second.shape:
        raise EvaluationError(
            "scores", f"shapes {first.shape} and {second.shape}; both must be [queries, items]"
        )
