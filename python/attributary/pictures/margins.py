"""Where in a picture a smaller one may lie: within a frame, bars or a screenshot's ground, above a strip of words."""

from __future__ import annotations

from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

# Pixels of the longer side that margins are looked for in: a picture of half of it is still finer than a look.
SIDE = 256
_LEAST = 16  # pixels a side that a picture within has
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


class Seen(NamedTuple):
    """An overview by rows, [H, W, 3], and by columns, [W, H, 3], each in memory line by line, and as an image."""

    rows: Pixels
    columns: Pixels
    image: Image.Image

    @classmethod
    def of(cls, overview: Pixels) -> Self:
        """Of uint8 RGB [H, W, 3]."""
        rows = np.ascontiguousarray(overview)
        return cls(rows, np.ascontiguousarray(rows.transpose(1, 0, 2)), Image.fromarray(rows))


def overview(pixels: Pixels) -> Pixels | None:
    """All of a picture, uint8 RGB [H, W, 3], small enough to look for margins in; None where no side has one colour."""
    sides = (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1])
    if not any(_flat(side[:, None], _ROUGH)[0] for side in sides):
        return None
    longer = max(pixels.shape[:2])
    if longer <= SIDE:
        return pixels
    width, height = (max(1, round(pixels.shape[axis] * SIDE / longer)) for axis in (1, 0))
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BOX))


def parts(seen: Seen) -> list[Box]:
    """What may be a picture in an overview: what its margins leave, and that without words below."""
    everything = Box(0, 0, len(seen.columns), len(seen.rows))
    found = [everything]
    for tolerance in (_CLEAN, _ROUGH):
        if part := within(seen, everything, tolerance):
            found += [part, _wordless(seen, part, tolerance)]
    return _distinct(found)[1:]


def tight(seen: Seen, box: Box) -> Box:
    """A part without what margins of one colour it still has."""
    return within(seen, box, _ROUGH) or box


def edges(seen: Seen, box: Box) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of a part to a fraction of a pixel: its outermost ones are partly its frame's."""
    left, top, right, bottom = box
    rows, columns = seen.rows[top:bottom, left:right], seen.columns[left:right, top:bottom]
    colour = ground(seen, box)
    outer = [_frames_part(lines, colour) for lines in (columns, rows, columns[::-1], rows[::-1])]
    return left + outer[0], top + outer[1], right - outer[2], bottom - outer[3]


def _frames_part(lines: Pixels, colour: NDArray[np.uint8]) -> float:
    """How many of the outer lines are the frame's, by how far each is from its colour."""
    far = np.abs(lines[: _BLURRED + 1].astype(np.float32) - colour).mean(axis=(1, 2))
    return float((1.0 - np.minimum(far[:_BLURRED] / max(float(far[_BLURRED]), 1e-6), 1.0)).sum())


def another(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> bool:
    """Whether two colours [3] are not one."""
    return bool(np.abs(one.astype(np.int16) - other).max() > _CLEAN)


def ground(seen: Seen, box: Box) -> NDArray[np.uint8]:
    """The colour around a part, uint8 [3]; of one that reaches the edge all around that of its own edge."""
    left, top, right, bottom = box
    rows, columns, _ = seen
    lines = [rows[row, left:right] for row in (top - 1, bottom) if 0 <= row < len(rows)]
    lines += [columns[column, top:bottom] for column in (left - 1, right) if 0 <= column < len(columns)]
    lines = lines or [rows[0], rows[-1], columns[0], columns[-1]]
    colour: NDArray[np.uint8] = np.median(np.concatenate(lines), axis=0).astype(np.uint8)
    return colour


def within(seen: Seen, box: Box, tolerance: int) -> Box | None:
    """What lies within a part's margins, each side's of the colour of its outermost line; None where nothing does."""
    left, top, right, bottom = box
    # Rows lie beside each other in columns, and the other way about; along them NumPy is ten times slower.
    reach = _reach(seen.columns[left:right, top:bottom])
    top += _margin(seen.rows[top, left:right], reach, tolerance)
    if top == bottom:
        return None
    bottom -= _margin(seen.rows[bottom - 1, left:right], reach[:, top - bottom :][:, ::-1], tolerance)
    if top == bottom:
        return None
    reach = _reach(seen.rows[top:bottom, left:right])
    left += _margin(seen.columns[left, top:bottom], reach, tolerance)
    if left == right:
        return None
    right -= _margin(seen.columns[right - 1, top:bottom], reach[:, left - right :][:, ::-1], tolerance)
    return Box(left, top, right, bottom) if left < right else None


def _reach(beside: Pixels) -> Pixels:
    """The least and the largest levels of each line, [2, n, 3], of lines beside each other, [m, n, 3]."""
    return np.stack([beside.min(axis=0), beside.max(axis=0)])


def _margin(first: Pixels, reach: Pixels, tolerance: int) -> int:
    """How many lines from the first, [m, 3], have its colour, by the reach of each, [2, n, 3]."""
    inorder = np.sort(first, axis=0)
    colour = (inorder[(len(first) - 1) // 2].astype(np.float64) + inorder[len(first) // 2]) / 2  # the median
    low, high = np.clip((colour - tolerance, colour + tolerance), 0, 255).astype(np.uint8)
    other = ((reach[0] < low) | (reach[1] > high)).any(axis=1)
    return int(other.argmax()) if other.any() else len(other)


def _wordless(seen: Seen, box: Box, tolerance: int) -> Box:
    """A part without the lines of words above and below: low blocks of rows behind rows of one colour."""
    rows = _flat(seen.columns[box.left : box.right, box.top : box.bottom], tolerance)
    bounds = np.flatnonzero(np.concatenate([[True], rows, [True]]))
    high = np.flatnonzero(np.diff(bounds) - 1 >= len(rows) * _WORDS)
    if not high.size:
        return box
    top, bottom = box.top + int(bounds[high[0]]), box.top + int(bounds[high[-1] + 1]) - 1
    return box._replace(top=top, bottom=bottom)


def _flat(beside: Pixels, tolerance: int) -> NDArray[np.bool_]:
    """Which lines have one colour, of lines beside each other, uint8 [m, n, 3]."""
    first = beside[0].astype(np.int16)
    low, high = np.clip((first - 2 * tolerance, first + 2 * tolerance), 0, 255).astype(np.uint8)
    least, most = _reach(beside)
    flat: NDArray[np.bool_] = ~((least < low) | (most > high)).any(axis=1)
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
