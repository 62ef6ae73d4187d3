"""Several methods as one: the sum of 1 / rank over them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from attributary_train.errors import EvaluationError
from attributary_train.evaluation.rescale import ranked
from attributary_train.evaluation.scores import ScoreFile


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
