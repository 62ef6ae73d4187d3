"""What an embedding alone may tell of where its picture comes from: how far it lies from those of generated pictures.

Scores of embeddings, larger = more like what the generator makes, each fitted to generated pictures alone. An exported
encoder's embeddings have unit length, so that a norm says nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from .ood import FALSE_ALARMS, Cosines, Floats, detection_row

_NEIGHBOURS = 10
_AXES = 64
_SHRINK = 0.1
_FOLDS = 10
Score = Callable[[Cosines], Floats]


def _neighbours(known: Cosines) -> Score:
    """Mean cosine with the nearest generated pictures."""

    def score(queries: Cosines) -> Floats:
        near = np.partition(queries @ known.T, -_NEIGHBOURS, axis=1)[:, -_NEIGHBOURS:]
        return np.asarray(near.mean(axis=1), np.float64)

    return score


def _mahalanobis(known: Cosines) -> Score:
    """Less the squared distance of a normal density, whose covariance is drawn towards an even one."""
    mean, covariance = known.mean(axis=0), np.cov(known.T.astype(np.float64))
    even = np.eye(len(covariance)) * np.trace(covariance) / len(covariance)
    precision = np.linalg.inv((1.0 - _SHRINK) * covariance + _SHRINK * even)

    def score(queries: Cosines) -> Floats:
        apart = queries.astype(np.float64) - mean
        return -np.asarray(np.einsum("qd,de,qe->q", apart, precision, apart), np.float64)

    return score


def _middle(known: Cosines) -> Score:
    """The squared distance itself: what lies nearer to the middle than a generated picture is none (a typical set)."""
    outside = _mahalanobis(known)
    return lambda queries: -outside(queries)


def _residual(known: Cosines) -> Score:
    """Less what the principal axes of generated pictures leave of an embedding."""
    mean = known.mean(axis=0)
    axes = np.linalg.svd(known - mean, full_matrices=False)[2][: min(_AXES, len(known) - 1)]

    def score(queries: Cosines) -> Floats:
        apart = queries - mean
        return -np.asarray(np.square(apart - apart @ axes.T @ axes).sum(axis=1), np.float64)

    return score


SCORES: Mapping[str, Callable[[Cosines], Score]] = {
    f"cosine with {_NEIGHBOURS} generated": _neighbours,
    "Mahalanobis distance": _mahalanobis,
    "Mahalanobis distance, not too small": _middle,
    f"residual of {_AXES} axes": _residual,
}


def embedding_detection(
    known: Cosines, test: Cosines, foreign: Mapping[str, Cosines], false_alarms: float = FALSE_ALARMS
) -> list[dict[str, Any]]:
    """A row a score of embeddings float32 [n, D]: alarms on `test`, detection and AUROC on each foreign set.

    Thresholds are cross-conformal: each tenth of `known` is scored by what is fitted to the rest.
    """
    rows = []
    folds = np.arange(len(known)) % _FOLDS
    for name, fit in SCORES.items():
        inside = np.empty(len(known))
        for fold in range(_FOLDS):
            inside[folds == fold] = fit(known[folds != fold])(known[folds == fold])
        score = fit(known)
        found = {title: score(queries) for title, queries in foreign.items()}
        rows.append(detection_row(name, inside, score(test), found, false_alarms))
    return rows
