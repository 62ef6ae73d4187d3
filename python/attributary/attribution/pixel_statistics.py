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
    # A plane a colour: what is strided by three costs several times as much.
    colour = np.ascontiguousarray(pixels.transpose(3, 0, 1, 2)).astype(np.float32)
    colour *= np.float32(1 / 255)
    red, green, blue = colour
    luma = red * _LUMA[0] + green * _LUMA[1] + blue * _LUMA[2]
    vivid = np.maximum(np.maximum(red, green), blue) - np.minimum(np.minimum(red, green), blue)
    border = _border(colour)
    found = [*_spread(colour, (2, 3)), *_spread(border, 2)]
    alone = [*_spread(vivid, (1, 2))]
    alone += _energies(luma, split=True)
    alone += _energies(red - green, split=False)
    alone += _energies(blue - luma, split=False)
    steps = np.abs(luma[:, :, 1:] - luma[:, :, :-1]), np.abs(luma[:, 1:] - luma[:, :-1])
    alone += [(_part(steps[0] < even) + _part(steps[1] < even)) / 2 for even in _EVEN]
    alone += [_part(luma < level) for level in _DARK]
    return np.concatenate([np.concatenate(found), np.stack(alone)]).T.astype(np.float32, order="C")


def _spread(values: NDArray[np.float32], axes: int | tuple[int, ...]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Mean and standard deviation over `axes`."""
    return values.mean(axis=axes), values.std(axis=axes)


def _part(true: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The part of each picture that is true, [Q]."""
    return np.asarray(np.count_nonzero(true, axis=(1, 2)) / true[0].size, np.float64)


def _border(colour: NDArray[np.float32]) -> NDArray[np.float32]:
    """The pixels along the four sides of planes [3, Q, S, S], [3, Q, P]."""
    wide = max(1, colour.shape[2] // _EDGE)
    parts = (colour[:, :, :wide], colour[:, :, -wide:], colour[..., :wide], colour[..., -wide:])
    return np.concatenate([part.reshape(*colour.shape[:2], -1) for part in parts], axis=2)


def _energies(plane: NDArray[np.float32], split: bool) -> list[NDArray[np.floating[Any]]]:
    """Logarithms of the mean Haar coefficients of planes [Q, S, S] by scale, `split` by direction too: [Q] each."""
    found: list[NDArray[np.floating[Any]]] = []
    for _ in range(_LEVELS):
        side = plane.shape[1] // 2 * 2
        top, bottom = plane[:, :side:2, :side], plane[:, 1:side:2, :side]
        low, high = top + bottom, top - bottom
        left, right = low[:, :, ::2], low[:, :, 1::2]
        first, second = high[:, :, ::2], high[:, :, 1::2]
        parts = [
            np.abs(part).mean(axis=(1, 2)) / 2 for part in (left - right, first + second, first - second)
        ]
        found += parts if split else [(parts[0] + parts[1] + parts[2]) / 3]
        plane = (left + right) * np.float32(0.25)
    return [np.log(energy + _FAINT) for energy in found]
