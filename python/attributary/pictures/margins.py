"""Where in a picture a smaller one may lie: within a frame, bars or a screenshot's ground, above a strip of words."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

# Pixels of the longer side that margins are looked for in: a picture of half of it is still finer than a look.
SIDE = 256
_LEAST = 16  # pixels a side that a picture within has
_LINES = 16  # that are looked at together
_BLURRED = 2  # lines that scaling and JPEG mix with a frame
_WORDS = 1 / 8  # of a part's height that a line of words has at most
_SAME = 2  # pixels between two boxes that are one
# Levels from the colour of a line that are still of it: where a frame is clean, and where JPEG has been at it.
_CLEAN, _ROUGH = 12, 32

Pixels = NDArray[np.uint8]


class Box(NamedTuple):
    """A part of a picture, in its pixels."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.right - self.left, self.bottom - self.top

    def of(self, seen: Pixels) -> Pixels:
        """The pixels within, a view."""
        return seen[self.top : self.bottom, self.left : self.right]


def overview(pixels: Pixels) -> Pixels | None:
    """All of a picture, uint8 RGB [H, W, 3], small enough to look for margins in; None where no side has one colour."""
    sides = (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1])
    if not any(_flat(np.ascontiguousarray(side)[None], _ROUGH)[0] for side in sides):
        return None
    longer = max(pixels.shape[:2])
    if longer <= SIDE:
        return pixels
    width, height = (max(1, round(pixels.shape[axis] * SIDE / longer)) for axis in (1, 0))
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BOX))


def parts(seen: Pixels) -> list[Box]:
    """What may be a picture in an overview: what its margins leave, and that without words below."""
    everything = Box(0, 0, seen.shape[1], seen.shape[0])
    found = [everything]
    for tolerance in (_CLEAN, _ROUGH):
        if part := within(seen, everything, tolerance):
            found += [part, _wordless(seen, part, tolerance)]
    return _distinct(found)[1:]


def tight(seen: Pixels, box: Box) -> Box:
    """A part without what margins of one colour it still has."""
    return within(seen, box, _ROUGH) or box


def edges(seen: Pixels, box: Box) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of a part to a fraction of a pixel: its outermost ones are partly its frame's."""
    apart = np.abs(box.of(seen).astype(np.float32) - ground(seen, box)).mean(axis=2)
    down, across = apart.mean(axis=1), apart.mean(axis=0)
    left, top, right, bottom = map(_frames_part, (across, down, across[::-1], down[::-1]))
    return box.left + left, box.top + top, box.right - right, box.bottom - bottom


def _frames_part(lines: NDArray[np.float32]) -> float:
    """How many of the outer lines are the frame's, by how far each is from its colour."""
    return float((1.0 - np.minimum(lines[:_BLURRED] / max(float(lines[_BLURRED]), 1e-6), 1.0)).sum())


def another(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> bool:
    """Whether two colours [3] are not one."""
    return bool(np.abs(one.astype(np.int16) - other).max() > _CLEAN)


def ground(seen: Pixels, box: Box) -> NDArray[np.uint8]:
    """The colour around a part, uint8 [3]; of one that reaches the edge all around that of its own edge."""
    left, top, right, bottom = box
    lines = [seen[row, left:right] for row in (top - 1, bottom) if 0 <= row < seen.shape[0]]
    lines += [seen[top:bottom, column] for column in (left - 1, right) if 0 <= column < seen.shape[1]]
    lines = lines or [seen[0], seen[-1], seen[:, 0], seen[:, -1]]
    colour: NDArray[np.uint8] = np.median(np.concatenate(lines), axis=0).astype(np.uint8)
    return colour


def within(seen: Pixels, box: Box, tolerance: int) -> Box | None:
    """What lies within a part's margins, each side's of the colour of its outermost line; None where nothing does."""
    left, top, right, bottom = box
    top += _margin(box.of(seen), tolerance)
    bottom -= _margin(seen[top:bottom, left:right][::-1], tolerance)
    columns = seen[top:bottom, left:right].transpose(1, 0, 2)
    left += _margin(columns, tolerance)
    right -= _margin(columns[left - box.left :][::-1], tolerance)
    return Box(left, top, right, bottom) if top < bottom and left < right else None


def _margin(lines: Pixels, tolerance: int) -> int:
    """How many of the first lines have one colour, the first one's."""
    if not lines.size:
        return 0
    colour = np.median(lines[0], axis=0)
    low, high = np.clip((colour - tolerance, colour + tolerance), 0, 255).astype(np.uint8)
    for start in range(0, len(lines), _LINES):
        some = lines[start : start + _LINES]
        other = ((some < low) | (some > high)).any(axis=(1, 2))
        if other.any():
            return start + int(other.argmax())
    return len(lines)


def _wordless(seen: Pixels, box: Box, tolerance: int) -> Box:
    """A part without the lines of words above and below: low blocks of rows behind rows of one colour."""
    rows = box.of(seen)
    bounds = np.flatnonzero(np.concatenate([[True], _flat(rows, tolerance), [True]]))
    high = np.flatnonzero(np.diff(bounds) - 1 >= len(rows) * _WORDS)
    if not high.size:
        return box
    top, bottom = box.top + int(bounds[high[0]]), box.top + int(bounds[high[-1] + 1]) - 1
    return box._replace(top=top, bottom=bottom)


def _flat(lines: Pixels, tolerance: int) -> NDArray[np.bool_]:
    """Which lines, uint8 [n, m, 3], have one colour."""
    first = lines[:, :1].astype(np.int16)
    low, high = np.clip((first - 2 * tolerance, first + 2 * tolerance), 0, 255).astype(np.uint8)
    flat: NDArray[np.bool_] = ~((lines < low) | (lines > high)).any(axis=(1, 2))
    return flat


def _distinct(boxes: list[Box]) -> list[Box]:
    kept: list[Box] = []
    for box in boxes:
        known = any(
            max(abs(one - other) for one, other in zip(box, has, strict=True)) <= (_SAME if at else 0)
            for at, has in enumerate(kept)
        )
        if min(box.size) >= _LEAST and not known:
            kept.append(box)
    return kept
