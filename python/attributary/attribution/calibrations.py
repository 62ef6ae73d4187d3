"""A bundle's calibration as the kernels take it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from attributary import kernels
from attributary.bundle.manifest import Calibration


def calibration_of(calibration: Calibration, has_prompt: Sequence[bool]) -> NDArray[np.float32]:
    """The kernels' calibration of each query, float32 [Q, 9] (`attributary.kernels.types.CALIBRATION`)."""
    return np.array(
        [
            (
                shares.temperature,
                shares.threshold,
                shares.background,
                shares.diffuse_floor,
                shares.ood_similarity,
                shares.ood_margin,
                shares.reach,
                shares.reach_cut,
                shares.reach_null,
            )
            for shares in map(calibration.of, has_prompt)
        ],
        np.float32,
    ).reshape(-1, len(kernels.CALIBRATION))
