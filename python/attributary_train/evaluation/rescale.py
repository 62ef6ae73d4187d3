"""Scores to amounts that may be added up, over a subset as LDS does or over methods: a cosine is no amount."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata  # type: ignore[import-untyped]

from attributary_train.errors import EvaluationError

from .scores import ScoreFile

Scores = npt.NDArray[np.float32]


def sharpened(scores: Scores, temperature: float) -> Scores:
    """exp((score - the query's best) / temperature), float32 [Q, N] in 0 to 1: what a share is proportional to."""
    best = scores.max(axis=1, keepdims=True)
    found: Scores = np.exp((scores - best) / np.float32(temperature), dtype=np.float32)
    return found


def raised(scores: Scores, power: float) -> Scores:
    """What a score rises above the query's median, to a power; 0 below. Float32 [Q, N]."""
    rise = np.maximum(scores.astype(np.float64) - np.median(scores, axis=1, keepdims=True), 0.0)
    # By the query's largest, so that small losses do not leave float32's range.
    whole: Scores = ((rise / np.maximum(rise.max(axis=1, keepdims=True), 1e-300)) ** power).astype(np.float32)
    return whole


def ranked(scores: Scores) -> Scores:
    """1 / rank, the best item's rank being 1 and ties sharing theirs; float32 [Q, N]. Two methods rescaled so differ in
    the order of items alone."""
    ranks = rankdata(-scores.astype(np.float64), axis=1)
    return np.asarray(1.0 / ranks, np.float32)


def rescale(
    file: ScoreFile, temperature: float | None, power: float | None, name: str, *, ranks: bool = False
) -> ScoreFile:
    """One of the three, under a name of its own. Raises `EvaluationError` unless exactly one is given, above 0."""
    if (temperature is not None) + (power is not None) + ranks != 1:
        raise EvaluationError("temperature", "or power, or ranks: one of them is needed")
    if ranks:
        return replace(
            file, method=name, scores=ranked(file.scores), facts={**file.facts, "rescaled": {"ranks": True}}
        )
    value = power if temperature is None else temperature
    assert value is not None
    if not value > 0:
        raise EvaluationError("power" if temperature is None else "temperature", f"{value}; must be above 0")
    found = raised(file.scores, value) if temperature is None else sharpened(file.scores, value)
    how = {"power": power} if temperature is None else {"temperature": temperature}
    return replace(file, method=name, scores=found, facts={**file.facts, "rescaled": how})


def combine(files: Sequence[ScoreFile], name: str) -> ScoreFile:
    """Mean of 1 / rank over score files of the same queries and items, in the first one's order.

    Raises `EvaluationError` if there are fewer than two, or if one is of another model, other queries or other items.
    """
    if len(files) < 2:
        raise EvaluationError("scores", f"{len(files)} file given; at least 2 are combined")
    first = files[0]
    total = np.zeros(first.scores.shape, np.float64)
    for file in files:
        if file.weights != first.weights:
            raise EvaluationError(
                f"{file.method}.weights", f"scores of model {file.weights[:12]}, not of {first.weights[:12]}"
            )
        total += ranked(file.aligned(first.queries, first.ids, first.digests))
    facts = {"combined": [file.method for file in files], "splits": first.facts.get("splits")}
    mean = (total / len(files)).astype(np.float32)
    return ScoreFile(name, mean, first.queries, first.ids, first.weights, facts, first.digests)
