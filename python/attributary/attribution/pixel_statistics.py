"""What a picture is like at the lowest level: colours, edges by scale and direction, evenness, border.

An encoder that learned to tell one drawing from another places a page of text beside thin drawings; these numbers tell
that its edges are not the generator's. They are of the pixels that the encoder sees, so that every engine has them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_LEVELS = 5
_EDGE = 16  # a sixteenth of the side is border
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
# A level of energy that rounding to 8 bits leaves: below it nothing is told apart.
_FAINT = 4e-3
_EVEN = (0.02, 0.1, 0.3)
_DARK = (0.05, 0.5, 0.9, 0.98)
# Of each pixel: two of colour; of the levels three directions of brightness, and two of colour.
COUNT = 3 * 2 + 2 + 3 * 2 + _LEVELS * 5 + len(_EVEN) + len(_DARK)


def pixel_statistics(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Statistics float32 [Q, COUNT] of pictures uint8 [Q, S, S, 3], S at least 32."""
    colour = pixels.astype(np.float32) / 255.0
    luma: NDArray[np.floating[Any]] = colour @ _LUMA
    vivid = colour.max(axis=3) - colour.min(axis=3)
    border = _border(colour)
    found = [colour.mean(axis=(1, 2)), colour.std(axis=(1, 2)), border.mean(axis=1), border.std(axis=1)]
    alone = [vivid.mean(axis=(1, 2)), vivid.std(axis=(1, 2))]
    alone += _energies(luma, split=True)
    alone += _energies(colour[..., 0] - colour[..., 1], split=False)
    alone += _energies(colour[..., 2] - luma, split=False)
    across, down = np.abs(np.diff(luma, axis=2)), np.abs(np.diff(luma, axis=1))
    alone += [((across < step).mean(axis=(1, 2)) + (down < step).mean(axis=(1, 2))) / 2 for step in _EVEN]
    alone += [(luma < level).mean(axis=(1, 2)) for level in _DARK]
    return np.concatenate([*found, np.stack(alone, axis=1)], axis=1).astype(np.float32)


def _border(colour: NDArray[np.float32]) -> NDArray[np.float32]:
    """The pixels along the four sides, [Q, P, 3]."""
    wide = max(1, colour.shape[1] // _EDGE)
    parts = (colour[:, :wide], colour[:, -wide:], colour[:, :, :wide], colour[:, :, -wide:])
    return np.concatenate([part.reshape(len(colour), -1, 3) for part in parts], axis=1)


def _energies(plane: NDArray[np.floating[Any]], split: bool) -> list[NDArray[np.floating[Any]]]:
    """Logarithms of the mean Haar coefficients of planes [Q, S, S] by scale, `split` by direction too: [Q] each."""
    found = []
    for _ in range(_LEVELS):
        side = plane.shape[1] // 2 * 2
        a, b = plane[:, :side:2, :side:2], plane[:, :side:2, 1:side:2]
        c, d = plane[:, 1:side:2, :side:2], plane[:, 1:side:2, 1:side:2]
        parts = [np.abs(part).mean(axis=(1, 2)) / 2 for part in (a - b + c - d, a + b - c - d, a - b - c + d)]
        found += parts if split else [(parts[0] + parts[1] + parts[2]) / 3]
        plane = (a + b + c + d) / 4
    return [np.log(energy + _FAINT) for energy in found]
