"""Which of the known pictures a picture has within it: framed, between bars, in a screenshot, above a strip of words.

What is within the margins is compared as any picture is. Where the frame has the colour of the known picture's own
ground nothing tells where that began: then what stands out is compared, and laid into a square at the place and size
that make the known picture's look (Gauss-Newton), which it must make as closely as any copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .looks import LENGTH, SIDE, look_of, unit
from .margins import Box, Pixels, Seen, another, edges, ground, parts, tight
from .recognise import COLOUR, SAME_PICTURE, Known, Shown

# Pixels of the longer side of what stands out, about as many as in the square that looks are of.
_SHARPNESS = 51
_ALIKE = 0.8  # what stands out in two pictures, from which on it is laid in
_COLOUR, _SHAPE = 24, 8  # levels, steps
_TRIED = 2  # known pictures, the likeliest
_STEP = 16.0  # levels between pixels that are an edge
# A plain shape has fewer pixels at edges, and fewer that are neither its ground's colour nor its own.
_EDGES, _INSIDE = 0.18, 0.1
_GRID = 48  # pixels a side of what is laid in
_STARTS, _STEPS = 3, 6  # of Gauss-Newton

_ANGLES = np.pi * np.arange(SIDE)
_ACROSS = (np.arange(_GRID) + 0.5) / _GRID
# What is lost of each frequency in the pixels that a look is of, and in these.
_FADED = np.sinc(_ANGLES / np.pi / 64) * np.sinc(_ANGLES / np.pi / 128)
_FADED[0] = 0.5**0.5
# Sizes and places along one axis that are tried first, [T].
_SIZES, _PLACES = np.array(
    [(size / 20, place / 20) for size in range(2, 21) for place in range(21 - size)], np.float64
).T


def framed(overview: Pixels, size: int, *known: Known, colour: int = COLOUR) -> NDArray[np.int64]:
    """Rows of the known pictures that an overview has within it, ascending; mostly none.

    Rows are counted through `known`; looks are of squares of `size` pixels. `colour` as in `Shown.closest`.
    """
    seen = Seen.of(overview)
    whole, standing = [], {}
    for box in parts(seen):
        inner = tight(seen, box)
        if inner not in standing:
            standing[inner] = _standing(seen, inner)
        # Where a frame has their ground's colour, discs, squares and hearts of two houses are alike.
        if standing[inner] or another(ground(seen, box), ground(seen, inner)):
            whole.append(box)
    for box in whole:
        rows = Shown(_square(seen, box, size)).closest(*known, colour=colour)
        if rows.size:
            return rows
    best, found = SAME_PICTURE, np.zeros(0, np.int64)
    for one in standing.values():
        for row, cosine in _laid_in(one, known) if one else ():
            if cosine > best:
                best, found = cosine, np.array([row], np.int64)
    return found


def _square(seen: Seen, box: Box, size: int) -> Pixels:
    """A part as the encoder would see it."""
    left, top, right, bottom = edges(seen, box)
    side = min(right - left, bottom - top)
    x, y = (left + right - side) / 2, (top + bottom - side) / 2
    within = (x, y, x + side, y + side)
    return np.asarray(seen.image.resize((size, size), Image.Resampling.BICUBIC, box=within))


@dataclass(frozen=True, slots=True)
class _Standing:
    """What stands out on a ground: a pixel of it around, and its brightness less the ground's, [_GRID, _GRID]."""

    box: Box
    image: Image.Image
    grey: NDArray[np.float64]


def _standing(seen: Seen, box: Box) -> _Standing | None:
    """What stands out in a part; None of a plain shape, which is no one's."""
    colour = ground(seen, box)
    width, height = box.size
    image = Image.new("RGB", (width + 2, height + 2), tuple(colour.tolist()))
    image.paste(seen.image.crop(box), (1, 1))
    grey = np.asarray(image.convert("L").resize((_GRID, _GRID), Image.Resampling.BOX), np.float64)
    grey -= float(np.asarray(Image.fromarray(colour[None, None]).convert("L"))[0, 0])
    steps = np.maximum(np.abs(np.diff(grey, axis=0))[:, :-1], np.abs(np.diff(grey, axis=1))[:-1])
    shown = grey[np.abs(grey) > _STEP]
    if not shown.size:
        return None
    inside = np.count_nonzero(np.abs(shown - np.median(shown)) > 1.5 * _STEP) / grey.size
    if (steps > _STEP).mean() < _EDGES and inside < _INSIDE:
        return None
    return _Standing(box, image, grey)


def _laid_in(one: _Standing, known: Sequence[Known]) -> list[tuple[int, float]]:
    """Rows whose picture has the same on its ground, and how close it can be brought to their looks."""
    longer = max(one.image.size)
    width, height = (max(3, round(side * _SHARPNESS / longer)) for side in one.image.size)
    look = look_of(np.asarray(one.image.resize((width, height), Image.Resampling.BICUBIC)))[1]
    if not look.any():
        return []
    likely: list[tuple[float, int, NDArray[np.float64]]] = []
    first = 0
    for part in known:
        apart = np.abs(part.standing.astype(np.int16) - look[LENGTH:])
        rows = np.flatnonzero((apart[:, :-1].max(axis=1) <= _COLOUR) & (apart[:, -1] <= _SHAPE))
        cosines = unit(part.looks[rows, 1, :LENGTH]) @ unit(look[:LENGTH])
        likely += [
            (float(cosine), first + row, unit(part.looks[row, 0, :LENGTH]))
            for row, cosine in zip(rows.tolist(), cosines, strict=True)
            if cosine >= _ALIKE
        ]
        first += len(part.looks)
    likely.sort(key=lambda one: -one[0])
    shape = one.image.width / one.image.height
    return [(row, _fit(one.grey, shape, target)) for _, row, target in likely[:_TRIED]]


def _fit(content: NDArray[np.float64], shape: float, target: NDArray[np.float64]) -> float:
    """The largest cosine with a look, unit [LENGTH], of what stands out, [_GRID, _GRID], somewhere in a square.

    `shape` is its width over its height.
    """
    wanted = target.reshape(SIDE, SIDE)
    # Each axis alone first: there are few places along one.
    across, down = _along(content.mean(axis=0), wanted[0]), _along(content.mean(axis=1), wanted[:, 0])
    of_shape = np.abs(_SIZES[:, None] - _SIZES[None] * shape) <= 0.05
    both = np.where(of_shape, across[:, None] + down[None], -np.inf)
    best = -1.0
    for _ in range(_STARTS):
        one, other = np.unravel_index(int(both.argmax()), both.shape)
        if not np.isfinite(both[one, other]):
            break
        place = np.array([_PLACES[one], _PLACES[other], _SIZES[one], _SIZES[other]])
        best = max(best, _refined(content, place, target))
        if best >= SAME_PICTURE:
            break
        both[np.abs(_SIZES - _SIZES[one]) < 0.08] = -np.inf
    return best


def _along(content: NDArray[np.float64], wanted: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cosines of one axis alone, [T], of what lies along it, [_GRID]."""
    made = (_TABLE @ content).reshape(-1, SIDE)[:, 1:]
    cosines: NDArray[np.float64] = made @ wanted[1:] / np.maximum(np.linalg.norm(made, axis=1), 1e-9)
    return cosines


def _refined(content: NDArray[np.float64], place: NDArray[np.float64], target: NDArray[np.float64]) -> float:
    """The cosine where Gauss-Newton ends, from left, top, width and height."""
    best = -1.0
    for _ in range(_STEPS):
        look, slopes = _look(content, place)
        cosine = float(look @ target)
        if cosine <= best + 1e-6:
            break
        best = cosine
        step = np.linalg.solve(slopes.T @ slopes + 1e-3 * np.eye(4), slopes.T @ (target - look))
        place = place + np.clip(step, -0.05, 0.05)
    return best


def _look(
    content: NDArray[np.float64], place: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The frequencies, unit [LENGTH], of a square with something at a place, and how they change, [LENGTH, 4]."""
    left, top, width, height = place
    (across, shift_x, grow_x), (down, shift_y, grow_y) = _waves(left, width), _waves(top, height)
    beside = down @ content
    found = np.stack(
        [beside @ across.T, beside @ shift_x.T, shift_y @ content @ across.T,
         beside @ grow_x.T, grow_y @ content @ across.T]
    )  # fmt: skip
    found[:, 0, 0] = 0.0
    flat = found.reshape(5, LENGTH) / max(float(np.linalg.norm(found[0])), 1e-9)
    look, slopes = flat[0], flat[1:]
    # Of unit length, whatever the place.
    return look, (slopes - np.outer(slopes @ look, look)).T


def _waves(
    first: float, length: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Cosines [SIDE, _GRID] along an axis of what begins at `first`; how they change with it, and with the length."""
    angle = _ANGLES[:, None] * (first + length * _ACROSS)
    shift = -np.sin(angle) * (_FADED * _ANGLES)[:, None]
    return np.cos(angle) * _FADED[:, None], shift, shift * _ACROSS


_TABLE = np.concatenate([_waves(place, size)[0] for size, place in zip(_SIZES, _PLACES, strict=True)])
