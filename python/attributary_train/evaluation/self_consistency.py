"""How well a teacher agrees with itself under another draw of noise: a reference for students, not a bound.

Two draws both carry noise, a prediction of their mean none: it sits nearer to a draw than another draw does, by root 2
in squared error alone. A student may therefore agree better with a draw than the teacher with itself.
"""

from __future__ import annotations

from collections.abc import Sequence

from attributary_train.errors import EvaluationError
from attributary_train.evaluation.agreement import FRACTIONS, Agreement, agree
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
    truth = first.aligned(shared, first.ids)
    other = second.aligned(shared, first.ids, first.digests_of(shared))
    if (truth == other).all():
        raise EvaluationError(
            "scores", "both files hold the same numbers; run the method again with other noise"
        )
    return agree(truth, other, fractions, overlap=True)
