"""What a picture looks like, small enough to keep: so that a copy is known when it comes under another name.

A look is the lowest frequencies of a picture's brightness (a DCT, as in perceptual hashing: Zauner 2010), once of all
of it, and once of what stands out from its edge, with that box's colour and shape. Noise, compression, brightness and
blur hardly change it; mirroring and quarter turns only change signs and places, so they are compared at no cost; a
newcomer is also cropped, padded and turned a little before it is compared. A picture of one colour has no look: zeros.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

SIDE = 16  # frequencies a side that are kept
KINDS = 2  # of the whole, of what stands out
LENGTH = SIDE * SIDE
SIZE = LENGTH + 4  # and of what stands out: mean red, green, blue, less 128, and width over height
# From here on two pictures are one (docs/decisions/near-duplicates.md).
SAME = 0.97
# Plain shapes coincide by chance, so what stands out must also agree in colour (levels) and shape (steps).
_COLOUR, SHAPE = 24, 4
_SHAPE_STEPS = 32  # for each doubling of width over height
_PIXELS = 32  # brightness is reduced to this many a side first
_ONE_COLOUR = 8  # levels between which an encoder's rounding leaves a picture of one colour
_NOTHING = 0.001  # part of the pixels; of 6,125 drawings the emptiest has 0.0019 of another colour
_FLAT = 32.0  # length of the frequencies, in levels, below which nothing is to be seen
_STANDS_OUT = 32  # levels from the colour of the edge
_SCALES = (0.8, 0.87, 0.94, 1.0, 1.06, 1.12, 1.19)  # of the window that is looked at
_TURNS = (-6.0, -3.0, 3.0, 6.0)  # degrees
_BLOCK = 16_384

_WAVES = np.cos(np.pi / _PIXELS * np.outer(np.arange(SIDE), np.arange(_PIXELS) + 0.5)) * (2 / _PIXELS) ** 0.5
_WAVES[0] /= 2**0.5
_SIGNS = (-1.0) ** np.arange(SIDE)


@dataclass(frozen=True, slots=True)
class Match:
    """A known picture that looks like a new one."""

    row: int
    cosine: float
    upright: bool  # also without mirroring, turning or inverting


def look_of(pixels: NDArray[np.uint8]) -> NDArray[np.int8]:
    """The look of a picture, uint8 RGB [S, S, 3]: int8 [KINDS, SIZE], zeros where nothing is to be seen."""
    image = Image.fromarray(pixels)
    look = np.zeros((KINDS, SIZE), np.int8)
    box = _standing_out(image, pixels)
    look[0, :LENGTH], look[1, :LENGTH] = frequencies(image), frequencies(box)
    if look[1].any():
        look[1, LENGTH:-1] = (np.asarray(box).mean(axis=(0, 1)) - 128).astype(np.int8)
        look[1, -1] = np.clip(np.rint(_SHAPE_STEPS * np.log2(box.width / box.height)), -127, 127)
    return look


def mirror_image(look: NDArray[np.int8]) -> NDArray[np.int8]:
    """The look of the same picture with left for right, int8 [KINDS, SIZE]: every second wave across turns over."""
    turned = look.copy()
    waves = look[:, :LENGTH].reshape(KINDS, SIDE, SIDE) * _SIGNS.astype(np.int8)
    turned[:, :LENGTH] = waves.reshape(KINDS, LENGTH)
    return turned


def is_flat(look: NDArray[np.int8]) -> bool:
    """Whether a picture shows nothing."""
    return not look.any()


def is_one_colour(pixels: NDArray[np.uint8]) -> bool:
    """Whether a picture, uint8 RGB [S, S, 3], has one colour alone."""
    # Most others are told by a few of their pixels.
    parts = (pixels[::8, ::8], pixels)
    return all(int(np.ptp(part.reshape(-1, 3), axis=0).max()) < _ONE_COLOUR for part in parts)


def shows_nothing(pixels: NDArray[np.uint8]) -> bool:
    """Whether a picture, uint8 RGB [S, S, 3], has one colour but for a dot: less than any known drawing."""
    levels = pixels.astype(np.int16)
    edge = np.concatenate([levels[0], levels[-1], levels[:, 0], levels[:, -1]])
    ground = np.median(edge, axis=0)
    # Most others are told by a few of their pixels.
    if np.abs(levels[::8, ::8] - ground).max(axis=2).mean() > _ONE_COLOUR:
        return False
    return bool((np.abs(levels - ground).max(axis=2) >= _ONE_COLOUR).mean() < _NOTHING)


class Newcomer:
    """A new picture from several sides, to be compared with known ones."""

    def __init__(self, pixels: NDArray[np.uint8]) -> None:
        """`pixels` is uint8 RGB [S, S, 3]."""
        self._see(look_of(pixels), [frequencies(view) for view in _views(Image.fromarray(pixels))])

    @classmethod
    def of_look(cls, look: NDArray[np.int8]) -> Newcomer:
        """Of a picture that is gone, by its look, int8 [KINDS, SIZE]: as it was, from no other side."""
        newcomer = cls.__new__(cls)
        newcomer._see(look, [look[0, :LENGTH]])
        return newcomer

    def _see(self, look: NDArray[np.int8], views: list[NDArray[np.int8]]) -> None:
        self.look = look
        self._whole = np.stack([unit(view) for view in views]).reshape(-1, SIDE, SIDE)
        # Mirroring and inverting change signs only: what does not match without signs does not match with them.
        sizes = np.abs(np.concatenate([self._whole, unit(self.look[1:, :LENGTH]).reshape(-1, SIDE, SIDE)]))
        both = np.concatenate([sizes, sizes.transpose(0, 2, 1)])
        self._sizes = both.reshape(-1, LENGTH).astype(np.float32)

    def among(self, known: NDArray[np.int8]) -> list[Match]:
        """Those of some looks, int8 [N, KINDS, SIZE], that this picture shares; rows ascending."""
        if is_flat(self.look):
            return []
        found = []
        for start in range(0, len(known), _BLOCK):
            block = known[start : start + _BLOCK]
            sizes = np.abs(unit(block[:, :, :LENGTH])).astype(np.float32).reshape(-1, LENGTH)
            near = (sizes @ self._sizes.T).max(axis=1) >= SAME
            for place in np.unique(np.flatnonzero(near) // KINDS).tolist():
                upright, turned = compared(self.look, block[place], self._whole)
                if max(upright, turned) >= SAME:
                    found.append(Match(start + place, max(upright, turned), upright >= SAME))
        return found


def compared(
    one: NDArray[np.int8], other: NDArray[np.int8], whole: NDArray[np.float64] | None = None
) -> tuple[float, float]:
    """Cosines of two looks, int8 [KINDS, SIZE]: as they are, and mirrored, turned or inverted as fits best.

    `whole` [V, SIDE, SIDE] is the first picture from several sides, by default as it is.
    """
    freq = unit(other[:, :LENGTH])
    sides = unit(one[:, :LENGTH]).reshape(-1, SIDE, SIDE)
    pairs = [(sides[:1] if whole is None else whole, freq[0])]
    if _alike(one[1], other[1]):
        pairs.append((sides[1:], freq[1]))
    upright = max(float((views.reshape(-1, LENGTH) @ known).max()) for views, known in pairs)
    turned = max(float(np.abs(view @ known).max()) for views, known in pairs for view in _mirrored(views))
    return upright, turned


def _alike(one: NDArray[np.int8], other: NDArray[np.int8]) -> bool:
    """Whether what stands out in two pictures has one colour and one shape, lying or standing."""
    colour = np.abs(one[LENGTH:-1].astype(np.int16) - other[LENGTH:-1]).max() <= _COLOUR
    return bool(colour) and abs(abs(int(one[-1])) - abs(int(other[-1]))) <= SHAPE


def strengths(looks: NDArray[np.int8]) -> NDArray[np.float32]:
    """How strong each frequency is whatever the mirroring, unit rows: int8 [N, SIZE] -> float32 [N, LENGTH].

    Turning by a quarter, which swaps the axes, is taken out by adding both.
    """
    square = np.abs(looks[:, :LENGTH].astype(np.float64)).reshape(-1, SIDE, SIDE)
    both = (square + square.transpose(0, 2, 1)).reshape(-1, LENGTH)
    lengths = np.maximum(np.linalg.norm(both, axis=1, keepdims=True), 1e-9)
    strong: NDArray[np.float32] = (both / lengths).astype(np.float32)
    return strong


def _views(image: Image.Image) -> Iterator[Image.Image]:
    """A picture a little nearer, farther, and turned; what comes in from outside has the colour of the corner."""
    side = image.width
    corner = image.getpixel((0, 0))
    for scale in _SCALES:
        size = max(2, round(side * scale))
        first = (side - size) // 2
        if size <= side:
            yield image.crop((first, first, first + size, first + size))
        else:
            padded = Image.new("RGB", (size, size), corner)
            padded.paste(image, (-first, -first))
            yield padded
    for turn in _TURNS:
        yield image.rotate(turn, Image.Resampling.BILINEAR, fillcolor=corner)


def _mirrored(sides: NDArray[np.float64]) -> Iterator[NDArray[np.float64]]:
    for turned in (sides, sides.transpose(0, 2, 1)):
        for rows in (1.0, _SIGNS[:, None]):
            for columns in (1.0, _SIGNS[None, :]):
                yield (turned * rows * columns).reshape(-1, LENGTH)


def frequencies(image: Image.Image) -> NDArray[np.int8]:
    """The lowest of a picture's brightness, int8 [LENGTH]; zeros where nothing is to be seen."""
    grey = image.convert("L").resize((_PIXELS, _PIXELS), Image.Resampling.BOX)
    found = _WAVES @ np.asarray(grey, np.float64) @ _WAVES.T
    found[0, 0] = 0.0
    if np.linalg.norm(found) < _FLAT:
        return np.zeros(LENGTH, np.int8)
    scaled: NDArray[np.int8] = np.rint(found * (127 / np.abs(found).max())).astype(np.int8).ravel()
    return scaled


def _standing_out(image: Image.Image, pixels: NDArray[np.uint8]) -> Image.Image:
    """The box around what differs from the colour of the edge; all of it where nothing does."""
    levels = pixels.astype(np.int16)
    edge = np.concatenate([levels[0], levels[-1], levels[:, 0], levels[:, -1]])
    off = np.abs(levels - np.median(edge, axis=0)).max(axis=2).clip(0, 255).astype(np.uint8)
    # A pixel alone is noise.
    seen = np.asarray(Image.fromarray(off).filter(ImageFilter.MedianFilter(3))) > _STANDS_OUT
    rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
    if not rows.size:
        return image
    return image.crop((int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1))


def unit(looks: NDArray[np.int8]) -> NDArray[np.float64]:
    """Rows of unit length, [..., L]; zeros stay zeros."""
    values = looks.astype(np.float64)
    lengths = np.linalg.norm(values, axis=-1, keepdims=True)
    scaled: NDArray[np.float64] = values / np.maximum(lengths, 1e-9)
    return scaled
