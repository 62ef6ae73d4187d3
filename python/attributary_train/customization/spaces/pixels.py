"""Pixels: the least that a feature space can be."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from attributary_train.customization.spaces.base import Features, Pictures, resized

_SIDE = 16


class Pixels:
    """Colours of 16 x 16 cells, centred on mid-grey, so that the cosine is that of deviations from it."""

    name = "pixels"
    identity = f"pixels-{_SIDE}"
    dim = 3 * _SIDE * _SIDE
    reads_text = False

    def features(self, pictures: Pictures, texts: Sequence[str]) -> Features:
        """Rows of 768 values in [-0.5, 0.5]."""
        small = resized(pictures, _SIDE).reshape(len(pictures), -1)
        # An eighth of a grey level keeps an exactly mid-grey picture from having no direction.
        return (small.astype(np.float32) + 0.125) / 255.0 - 0.5
