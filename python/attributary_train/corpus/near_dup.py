"""Near duplicates: drawings that share their lines share their credit.

The embedding is a histogram of oriented gradients (Dalal and Triggs, CVPR 2005) over a grid, made of the strongest
colour channel in each place so that recolouring changes little, joined to a coarse thumbnail. Its cosine finds
candidates. A cosine alone would join every round face to every other, because the outline outweighs the mouth, so a
candidate pair is a near duplicate only if its lines also agree in the place where they agree least. A creator's own
drawings may then differ in colour, as recoloured siblings do; those of two creators may not, because plain shapes and
stripes coincide by chance.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from attributary.building.groups import alike, components

_SIDE = 64  # pixels a side after shrinking
_CELL = 4  # pixels a side of a cell
_CELLS = _SIDE // _CELL
_BINS = 8  # orientations, of half a turn
_LINES = _CELLS * _CELLS * _BINS
_TILES = 8  # thumbnail, tiles a side
_COLOUR_WEIGHT = 0.15  # of the squared length of an embedding
DIM = _LINES + _TILES * _TILES * 3
EMBEDDING = "oriented gradients 16x16x8 + thumbnail 8x8x3, version 1"
# Places that are compared one by one: windows of 4 x 4 cells, half overlapping.
_WINDOW, _STRIDE = 4, 2
# An empty window must not turn a speck into a difference: no window counts for less than this share of all lines.
_FLOOR = 1 / 49
_QUERIES_A_BLOCK = 64
_PAIRS_A_BLOCK = 2048
EXACT_LIMIT = 50_000  # items above which candidates come from an inverted file instead of a full comparison


@dataclass(frozen=True, slots=True)
class Thresholds:
    """When two drawings are near duplicates; chosen by looking at contact sheets, recorded in `corpus.json`."""

    candidate_cosine: float = 0.9  # of the embeddings, at least
    worst_window: float = 0.1  # squared distance of the lines in the worst window over its energy, at most
    colour_cosine: float = 0.97  # of the thumbnails, at least; asked only of two creators' drawings


@dataclass(frozen=True, slots=True)
class Groups:
    """Which items belong together."""

    labels: NDArray[np.int64]  # [N], numbered from 0 by first appearance
    pairs: int  # near-duplicate pairs found

    @property
    def shared(self) -> int:
        """How many groups have more than one item."""
        return int((np.bincount(self.labels) > 1).sum()) if len(self.labels) else 0


def embed(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Embed one picture, uint8 RGB [S, S, 3] with S a multiple of 64, as a unit vector, float32 [DIM]."""
    shrunk = Image.fromarray(pixels).reduce(pixels.shape[0] // _SIDE)
    small = np.asarray(shrunk, dtype=np.float32) / 255.0
    padded = np.pad(small, ((1, 1), (1, 1), (0, 0)), mode="edge")
    dy = padded[2:, 1:-1] - padded[:-2, 1:-1]
    dx = padded[1:-1, 2:] - padded[1:-1, :-2]
    strength = np.hypot(dx, dy)
    best = strength.argmax(axis=2)[..., None]
    dx, dy, strength = (np.take_along_axis(part, best, 2)[..., 0] for part in (dx, dy, strength))
    turn = (np.arctan2(dy, dx) / np.pi % 1.0) * _BINS
    low = np.floor(turn)
    share = turn - low
    low = low.astype(np.int64) % _BINS
    histogram = np.zeros((_SIDE, _SIDE, _BINS), np.float32)
    np.put_along_axis(histogram, low[..., None], (strength * (1 - share))[..., None], 2)
    upper = ((low + 1) % _BINS)[..., None]
    np.put_along_axis(
        histogram, upper, np.take_along_axis(histogram, upper, 2) + (strength * share)[..., None], 2
    )
    cells = histogram.reshape(_CELLS, _CELL, _CELLS, _CELL, _BINS).sum(axis=(1, 3))
    cells = _blur(_blur(cells, 0), 1)
    lines = np.sqrt(cells).ravel()
    lines /= max(float(np.linalg.norm(lines)), 1e-6)
    tile = _SIDE // _TILES
    colour = (small.reshape(_TILES, tile, _TILES, tile, 3).mean(axis=(1, 3)) - 0.5).ravel()
    colour /= max(float(np.linalg.norm(colour)), 1e-6)
    joined = np.concatenate([np.sqrt(1 - _COLOUR_WEIGHT) * lines, np.sqrt(_COLOUR_WEIGHT) * colour])
    return joined.astype(np.float32)


def _blur(cells: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    pad = [(0, 0)] * 3
    pad[axis] = (1, 1)
    wide = np.pad(cells, pad)
    take = [np.take(wide, range(k, k + _CELLS), axis) for k in range(3)]
    blurred: NDArray[np.float32] = 0.25 * take[0] + 0.5 * take[1] + 0.25 * take[2]
    return blurred


def group(
    embeddings: NDArray[np.float16], creators: NDArray[np.int64], thresholds: Thresholds | None = None
) -> Groups:
    """Group near duplicates: the connected parts of the graph of near-duplicate pairs.

    `embeddings` is float16 [N, DIM], rows of `embed`; `creators` int64 [N] codes. Memory grows with N and the pairs
    found, never with N squared. Above `EXACT_LIMIT` items, candidates are sought in the 16 nearest cells of an
    inverted file, which may miss some.
    """
    thresholds = thresholds or Thresholds()
    pairs: list[tuple[int, int]] = []
    for left, right in alike(
        embeddings, thresholds.candidate_cosine, block=_QUERIES_A_BLOCK, exact=EXACT_LIMIT
    ):
        for start in range(0, len(left), _PAIRS_A_BLOCK):
            a, b = left[start : start + _PAIRS_A_BLOCK], right[start : start + _PAIRS_A_BLOCK]
            same = _near(embeddings, creators, a, b, thresholds)
            pairs += zip(a[same].tolist(), b[same].tolist(), strict=True)
    roots = np.array(components(pairs, len(embeddings)), dtype=np.int64)
    return Groups(_number(roots), len(pairs))


def _near(
    embeddings: NDArray[np.float16],
    creators: NDArray[np.int64],
    a: NDArray[np.int64],
    b: NDArray[np.int64],
    thresholds: Thresholds,
) -> NDArray[np.bool_]:
    one, other = embeddings[a].astype(np.float32), embeddings[b].astype(np.float32)
    colour = (one[:, _LINES:] * other[:, _LINES:]).sum(1) / _COLOUR_WEIGHT
    lines = worst_window(one, other) <= thresholds.worst_window
    near: NDArray[np.bool_] = lines & ((creators[a] == creators[b]) | (colour >= thresholds.colour_cosine))
    return near


def worst_window(one: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.float32]:
    """Compare embeddings row by row, float32 [P, DIM] twice; returns float32 [P], 0 for equal lines."""
    shape = (-1, _CELLS, _CELLS, _BINS)
    x, y = one[:, :_LINES].reshape(shape), other[:, :_LINES].reshape(shape)
    difference = _windows(((x - y) ** 2).sum(3))
    energy = _windows(((x**2).sum(3) + (y**2).sum(3)) / 2)
    worst: NDArray[np.float32] = (difference / np.maximum(energy, (1 - _COLOUR_WEIGHT) * _FLOOR)).max(
        axis=(1, 2)
    )
    return worst


def _windows(cells: NDArray[np.float32]) -> NDArray[np.float32]:
    views = np.lib.stride_tricks.sliding_window_view(cells, (_WINDOW, _WINDOW), axis=(1, 2))
    sums: NDArray[np.float32] = views[:, ::_STRIDE, ::_STRIDE].sum(axis=(3, 4))
    return sums


def _number(roots: NDArray[np.int64]) -> NDArray[np.int64]:
    _, first, inverse = np.unique(roots, return_index=True, return_inverse=True)
    order = np.empty(len(first), np.int64)
    order[np.argsort(first)] = np.arange(len(first))
    return order[inverse]
