"""Retrieval as published: an exemplar's items among the distractors, ranked by cosine (Wang et al., ICCV 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from attributary_train.customization.gallery import Embedded, Gallery
from attributary_train.errors import CustomizationError
from attributary_train.evaluation.stats import Interval, mean_interval, paired_interval

DEPTHS = (5, 10, 100)
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Retrieval:
    """Recall at each depth and average precision of every query, float64 [Q], with its exemplar, int64 [Q]."""

    recall: dict[int, Floats]
    precision: Floats
    whose: npt.NDArray[np.int64]

    def figures(self) -> dict[str, Floats]:
        """Means over an exemplar's pictures, a value an exemplar: its pictures share the tuned model."""
        columns = {f"R@{depth}": values for depth, values in self.recall.items()} | {"mAP": self.precision}
        return {name: per_exemplar(values, self.whose) for name, values in columns.items()}

    def intervals(self) -> dict[str, Interval]:
        """Means over exemplars with bootstrap intervals."""
        return {name: mean_interval(values) for name, values in self.figures().items()}

    def minus(self, other: Retrieval) -> dict[str, Interval]:
        """Paired differences to another retrieval of the same queries."""
        second = other.figures()
        return {name: paired_interval(values, second[name]) for name, values in self.figures().items()}


def per_exemplar(values: npt.ArrayLike, whose: npt.NDArray[np.int64]) -> Floats:
    """Means of the values of each exemplar, in the exemplars' order, float64 [E]."""
    sample = np.asarray(values, np.float64)
    _, member = np.unique(whose, return_inverse=True)
    return np.asarray(np.bincount(member, sample) / np.bincount(member), np.float64)


def retrieve(
    gallery: Gallery, embedded: Embedded, rows: npt.NDArray[np.int64], depths: Sequence[int] = DEPTHS
) -> Retrieval:
    """Rank each query's own exemplar items among the distractors; other exemplars' items do not take part.

    Recall@K is the share of the exemplar's items among the first K; average precision reads the whole list. Of equal
    cosines the distractor counts as better, so that a constant space finds nothing.
    """
    if not len(rows):
        raise CustomizationError("queries", "there are none of this split")
    whose = gallery.whose[rows]
    recall = {depth: np.empty(len(rows)) for depth in depths}
    precision = np.empty(len(rows))
    distractors = embedded.items[gallery.distractor_rows]
    for exemplar in np.unique(whose):
        here = np.flatnonzero(whose == exemplar)
        queries = embedded.queries[rows[here]]
        own = queries @ embedded.items[gallery.exemplar_rows[exemplar]].T
        rivals = queries @ distractors[gallery.rivals(int(exemplar))].T
        for at, (mine, theirs) in enumerate(zip(own, rivals, strict=True)):
            ranks = ranks_of(mine, theirs)
            for depth in depths:
                recall[depth][here[at]] = np.mean(ranks <= depth)
            precision[here[at]] = np.mean(np.arange(1, len(ranks) + 1) / ranks)
    return Retrieval(recall, precision, whose)


def ranks_of(own: npt.NDArray[np.float32], rivals: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """Ranks, from 1, of a query's own items in the joined list, ascending, int64 [n]."""
    better = len(rivals) - np.searchsorted(np.sort(rivals), np.sort(own)[::-1], side="left")
    return np.asarray(better + np.arange(1, len(own) + 1), np.int64)
