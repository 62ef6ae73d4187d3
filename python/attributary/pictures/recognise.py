"""Which of the known pictures a picture is: the very file, or what is left of it after another encoding or size.

Stricter than a near duplicate (`looks.SAME`): nothing is mirrored, turned or cropped, and of several the closest is
meant. A signature of 64 bits a picture rules out nearly all without loss: where two unit looks differ in the sign of a
frequency they differ by at least its size, and two of cosine c differ by 2 - 2 c in squares altogether.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .looks import KINDS, LENGTH, SHAPE, SIDE, frequencies, look_of, unit

# From here on it is the same picture (docs/decisions/own-pictures.md).
SAME_PICTURE = 0.995
_LOW = 8  # frequencies a side whose signs are kept
_STRONGEST = 24  # of them that are compared
COLOUR = 64  # levels; an encoding that moves the edge of what stands out may change its mean by half of it
_BLOCK = 16_384
_TIE = 1e-9  # of distances


@dataclass(frozen=True, slots=True)
class Known:
    """Looks of pictures, int8 [N, *LOOK], with their signatures, uint64 [N].

    `standing`, int8 [N, 4], is the colour and the shape of what stands out in each, side by side.
    """

    looks: NDArray[np.int8]
    signs: NDArray[np.uint64]
    standing: NDArray[np.int8]

    @classmethod
    def of(cls, looks: NDArray[np.int8]) -> Known:
        """Reads all looks once."""
        signs = np.zeros(len(looks), np.uint64)
        for start in range(0, len(looks), _BLOCK):
            block = looks[start : start + _BLOCK, 0, :LENGTH].reshape(-1, SIDE, SIDE)
            signs[start : start + _BLOCK] = _signs(block)
        return cls(looks, signs, looks[:, 1, LENGTH:].copy())


class Shown:
    """A picture that may be a known one, uint8 RGB [S, S, 3]."""

    def __init__(self, pixels: NDArray[np.uint8]) -> None:
        self._pixels = pixels
        self._see(frequencies(Image.fromarray(pixels)))

    @classmethod
    def of_look(cls, look: NDArray[np.int8]) -> Self:
        """Of a picture that is gone, by its look, int8 [KINDS, SIZE]."""
        shown = cls.__new__(cls)
        shown.__dict__["_look"] = look
        shown._see(look[0, :LENGTH])
        return shown

    @cached_property
    def _look(self) -> NDArray[np.int8]:
        return look_of(self._pixels)

    def _see(self, brightness: NDArray[np.int8]) -> None:
        self._whole = unit(brightness)
        low = self._whole.reshape(SIDE, SIDE)[:_LOW, :_LOW].ravel()
        strongest = np.argsort(-low * low, kind="stable")[:_STRONGEST]
        chosen = np.zeros(low.size, bool)
        chosen[strongest] = True
        self._mask = np.packbits(chosen).view(np.uint64)[0]
        self._own = _signs(self._whole.reshape(1, SIDE, SIDE))[0]
        weakest_first = np.sort(low[strongest] ** 2)
        self._may_differ = int((np.cumsum(weakest_first) <= 2 - 2 * SAME_PICTURE).sum())

    def closest(self, *parts: Known, colour: int = COLOUR) -> NDArray[np.int64]:
        """Rows of the known pictures that this one is, ascending: the closest, and others that look no different.

        Rows are counted through the parts. `colour` is how many levels what stands out may differ by.
        """
        found, looks, first = [np.zeros(0, np.int64)], [], 0
        for known in parts if self._whole.any() else ():
            near = self._near(known)
            found.append(near + first)
            looks.append(known.looks[near])
            first += len(known.looks)
        rows = np.concatenate(found)
        if not rows.size:
            return rows
        look, others = self._look, np.concatenate(looks)
        same = ~_recoloured(look[1], others[:, 1], colour)
        rows, others = rows[same], others[same]
        far = np.linalg.norm(_place(others) - _place(look[None]), axis=1)
        closest: NDArray[np.int64] = rows[far <= far.min(initial=np.inf) + _TIE]
        return closest

    def _near(self, known: Known) -> NDArray[np.int64]:
        """Rows of one brightness, ascending, whatever their colour."""
        differ = np.bitwise_count((known.signs ^ self._own) & self._mask)
        rows = np.flatnonzero(differ <= self._may_differ)
        found = [np.zeros(0, np.int64)]
        for start in range(0, len(rows), _BLOCK):
            some = rows[start : start + _BLOCK]
            found.append(some[unit(known.looks[some, 0, :LENGTH]) @ self._whole >= SAME_PICTURE])
        return np.concatenate(found)


def _signs(frequencies: NDArray[np.int8] | NDArray[np.float64]) -> NDArray[np.uint64]:
    """[N, SIDE, SIDE] -> uint64 [N]."""
    low = frequencies[:, :_LOW, :_LOW].reshape(len(frequencies), -1) > 0
    return np.ascontiguousarray(np.packbits(low, axis=1)).view(np.uint64)[:, 0]


def _recoloured(own: NDArray[np.int8], others: NDArray[np.int8], colour: int) -> NDArray[np.bool_]:
    """Whether what stands out has one shape and another colour, by more levels than `colour`: [SIZE], [N, SIZE] -> [N].

    Where the shapes differ, another encoding has moved the edge of what stands out, and colours say nothing.
    """
    mine, theirs = own[LENGTH:].astype(np.int16), others[:, LENGTH:].astype(np.int16)
    shaped = np.abs(theirs[:, -1] - mine[-1]) <= SHAPE
    far: NDArray[np.bool_] = shaped & (np.abs(theirs[:, :-1] - mine[:-1]).max(axis=1) > colour)
    return far


def _place(looks: NDArray[np.int8]) -> NDArray[np.float64]:
    """Looks as points: the whole, what stands out, and its colour; [N, KINDS, SIZE] -> [N, P]."""
    shapes = unit(looks[:, :, :LENGTH]).reshape(len(looks), KINDS * LENGTH)
    return np.concatenate([shapes, looks[:, 1, LENGTH:-1] / 128.0], axis=1)
