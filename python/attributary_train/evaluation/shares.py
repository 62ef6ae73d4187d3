"""The served share formula over a whole matrix of similarities: what is fitted is what the kernel computes.

`attributary.kernels.rescore` states the formula; a test holds this to it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from attributary.bundle.manifest import ShareCalibration

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Columns:
    """Items in an order that keeps near-duplicate groups together, so that groups are slices."""

    order: npt.NDArray[np.int64]  # [N]
    starts: npt.NDArray[np.int64]  # [G] where each group begins in that order
    group: npt.NDArray[np.int64]  # [N] number of each place's group

    @classmethod
    def of(cls, groups: npt.ArrayLike) -> Columns:
        """Columns of items whose near-duplicate groups are given, [N]."""
        _, member = np.unique(np.asarray(groups), return_inverse=True)
        order = np.argsort(member, kind="stable")
        sorted_member = member[order]
        starts = np.flatnonzero(np.diff(sorted_member, prepend=-1))
        return cls(order, starts, sorted_member)

    def nearest(self, similarity: npt.NDArray[np.float32]) -> Floats:
        """The cosine of each group's best member, float64 [Q, G], from cosines [Q, N]."""
        grouped = similarity.astype(np.float64)[:, self.order]
        return np.asarray(np.maximum.reduceat(grouped, self.starts, axis=1), np.float64)

    def summed(self, values: Floats) -> Floats:
        """Sums over the members of each group, [Q, N] -> [Q, G]."""
        return np.asarray(np.add.reduceat(values[:, self.order], self.starts, axis=1), np.float64)

    def ranks(self, similarity: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
        """The rank from 0 of each item's group among the groups of a query, int64 [Q, N]."""
        ranks = np.argsort(np.argsort(-self.nearest(similarity), axis=1, kind="stable"), axis=1)
        out = np.empty(similarity.shape, np.int64)
        out[:, self.order] = ranks[:, self.group]
        return out


def named_groups(similarity: npt.NDArray[np.float32], columns: Columns, reach: int) -> npt.NDArray[np.bool_]:
    """Which items an answer may name, [Q, N]: those of the best `reach` groups; all where it is 0."""
    if reach == 0:
        return np.ones(similarity.shape, bool)
    return np.asarray(columns.ranks(similarity) < reach)


def shares_of(
    similarity: npt.NDArray[np.float32],
    columns: Columns,
    calibration: ShareCalibration,
    candidates: int | None = None,
    certainty: Floats | None = None,
) -> tuple[Floats, Floats]:
    """Shares float64 [Q, N] and diffuse parts float64 [Q] of cosines [Q, N].

    Only the best `candidates` of a query compete; None lets all of them. `certainty` [Q]: the part that the queries'
    pixels leave to items; None leaves all.
    """
    cosines = similarity.astype(np.float64)
    if candidates is not None and candidates < cosines.shape[1]:
        least = -np.partition(-cosines, candidates - 1, axis=1)[:, candidates - 1 : candidates]
        cosines = np.where(cosines >= least, cosines, -np.inf)
    best_of_all = cosines.max(axis=1)
    peak = np.maximum(best_of_all, calibration.background)[:, None]
    grouped = cosines[:, columns.order]
    null = np.exp((calibration.background - peak[:, 0]) / calibration.temperature)
    cut = np.full((len(cosines), 1), calibration.threshold)
    beyond = np.full((len(cosines), 1), -np.inf)
    if 0 < calibration.reach < len(columns.starts):
        nearest = np.maximum.reduceat(grouped, columns.starts, axis=1)
        beyond = -np.partition(-nearest, calibration.reach, axis=1)[:, calibration.reach, None]
        faint = np.exp((beyond - peak) / calibration.temperature)
        cut = np.maximum(cut, calibration.reach_cut * faint)
        null += calibration.reach_null * faint[:, 0]
    weight = np.clip(np.exp((grouped - peak) / calibration.temperature) - cut, 0.0, None)
    weight[grouped <= beyond] = 0.0
    best = np.maximum.reduceat(weight, columns.starts, axis=1)
    total = np.add.reduceat(weight, columns.starts, axis=1)
    norm = null + best.sum(axis=1)
    factor = np.divide(best, total, out=np.zeros_like(best), where=total > 0)
    named = (1.0 - calibration.diffuse_floor) * _certainty(best_of_all, calibration)
    named = named if certainty is None else named * certainty
    out = np.empty_like(weight)
    out[:, columns.order] = weight * factor[:, columns.group] * (named / norm)[:, None]
    return out, 1.0 - named + named * null / norm


def _certainty(best: Floats, calibration: ShareCalibration) -> Floats:
    """The part of each answer that its items may have, [Q]: from 0 at the flag's threshold to 1 a margin above it."""
    above = best - calibration.ood_similarity
    if calibration.ood_margin > 0:
        above = above / calibration.ood_margin
        return np.asarray(np.clip(above, 0.0, 1.0), np.float64)
    return np.asarray(above >= 0, np.float64)
