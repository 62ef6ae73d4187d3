"""How well a teacher agrees with itself under another draw of noise: no student can be expected to reach further."""

from __future__ import annotations

from collections.abc import Sequence

from attributary_train.evaluation.agreement import FRACTIONS, Agreement, agree
from attributary_train.evaluation.errors import EvaluationError
from attributary_train.evaluation.scores import ScoreFile


def self_consistency(
    first: ScoreFile, second: ScoreFile, fractions: Sequence[float] = FRACTIONS
) -> Agreement:
    """Agreement of two runs of one method: the first is the truth, the second the prediction.

    Both must be about the same model and items; queries that only one has are left out. Raises `EvaluationError` if the
    two are of different models, share no query, or are the very same numbers: then nothing was drawn anew.
    """
    if first.weights != second.weights:
        raise EvaluationError("scores", f"of two models, {first.weights[:12]} and {second.weights[:12]}")
    known = set(second.queries)
    shared = [name for name in first.queries if name in known]
    if not shared:
        raise EvaluationError("queries", "the two files have none in common")
    truth, other = first.aligned(shared, first.ids), second.aligned(shared, first.ids)
    if (truth == other).all():
        raise EvaluationError(
            "scores", "both files hold the same numbers; run the method again with other noise"
        )
    return agree(truth, other, fractions, overlap=True)
