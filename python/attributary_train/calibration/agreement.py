"""How well served answers agree with the teacher on one query: the same figures for held-out labels and for audits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from attributary_train.evaluation.ranking import overlap_rows, spearman_rows
from attributary_train.evaluation.stats import mean_interval

# Items that an answer is judged on, random others that the teacher is asked about beside them, and how many items
# count as its head.
CANDIDATES = 32
OUTSIDE = 96
HEAD = 10
FIGURES = ("rank_correlation", "overlap_at_10", "share_difference")


@dataclass(frozen=True)
class QueryAgreement:
    """Of one query: Spearman correlation over the candidates that were served, part of the ten best in common, and half
    the sum of absolute differences of shares, the diffuse part and the rest included (0: equal; 1: disjoint)."""

    rank_correlation: float
    overlap_at_10: float
    share_difference: float


def agree_on(
    cosines: npt.NDArray[np.floating],
    shares: npt.NDArray[np.floating],
    diffuse: float,
    scores: npt.NDArray[np.floating],
    mass: npt.NDArray[np.floating],
    teacher_diffuse: float,
    others: npt.NDArray[np.floating],
) -> QueryAgreement:
    """Compare one query's served candidates with the teacher.

    `cosines`, `shares`, `scores`, `mass`: [K], of the candidates, best cosine first; `others`: the teacher's scores of
    items that were not served, among which its ten best may be.
    """
    count = min(HEAD, len(cosines))
    served = np.concatenate([np.asarray(cosines, float), np.full(len(others), -np.inf)])
    # An item outside the candidates was never served: it ranks below all of them.
    served[len(cosines) :] = float(np.min(cosines)) - 1.0
    judged = np.concatenate([np.asarray(scores, float), np.asarray(others, float)])
    difference = np.abs(np.asarray(shares, float) - np.asarray(mass, float)).sum()
    # What either side gives to items outside the candidates differs by at least this.
    rest = abs((1 - diffuse - float(np.sum(shares))) - (1 - teacher_diffuse - float(np.sum(mass))))
    return QueryAgreement(
        float(spearman_rows(np.asarray(cosines)[None], np.asarray(scores)[None])[0]),
        float(overlap_rows(judged[None], served[None], count)[0]),
        float(difference + abs(diffuse - teacher_diffuse) + rest) / 2,
    )


def summarise(rows: Sequence[QueryAgreement]) -> dict[str, dict[str, float]]:
    """Mean of each figure with its bootstrap interval over queries, and how many queries that is."""
    out = {}
    for name in FIGURES:
        values = np.array([asdict(row)[name] for row in rows])
        found = mean_interval(values)
        out[name] = {
            "mean": float(found.value),
            "low": float(found.low),
            "high": float(found.high),
            "deviation": float(values.std(ddof=1)) if len(values) > 1 else 0.0,
            "queries": float(len(values)),
        }
    return out
