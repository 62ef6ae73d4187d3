"""The served share formula over a whole matrix of similarities: what is fitted is what the kernel computes.

`attributary.kernels.rescore` states the formula up to the diffuse floor, which an answer adds; a test holds this to it.
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


def shares_of(
    similarity: npt.NDArray[np.float32],
    columns: Columns,
    calibration: ShareCalibration,
    candidates: int | None = None,
) -> tuple[Floats, Floats]:
    """Shares float64 [Q, N] and diffuse parts float64 [Q] of cosines [Q, N].

    Only the best `candidates` of a query compete; None lets all of them.
    """
    cosines = similarity.astype(np.float64)
    if candidates is not None and candidates < cosines.shape[1]:
        least = -np.partition(-cosines, candidates - 1, axis=1)[:, candidates - 1 : candidates]
        cosines = np.where(cosines >= least, cosines, -np.inf)
    peak = np.maximum(cosines.max(axis=1), calibration.background)[:, None]
    weight = np.clip(
        np.exp((cosines[:, columns.order] - peak) / calibration.temperature) - calibration.threshold,
        0.0,
        None,
    )
    null = np.exp((calibration.background - peak[:, 0]) / calibration.temperature)
    best = np.maximum.reduceat(weight, columns.starts, axis=1)
    total = np.add.reduceat(weight, columns.starts, axis=1)
    norm = null + best.sum(axis=1)
    factor = np.divide(best, total, out=np.zeros_like(best), where=total > 0) / norm[:, None]
    out = np.empty_like(weight)
    out[:, columns.order] = weight * factor[:, columns.group]
    named = 1.0 - calibration.diffuse_floor
    return out * named, calibration.diffuse_floor + named * null / norm
