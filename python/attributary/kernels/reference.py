"""NumPy and Pillow versions of the compiled kernels: the oracle of their tests, and the fallback at run time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from .types import (
    BoolBitmap,
    Float16Array,
    Float32Array,
    Int8Array,
    Int32Array,
    Int64Array,
    Rescored,
    UInt8Array,
)


def short_side_size(height: int, width: int, size: int) -> tuple[int, int]:
    """Return (height, width) in pixels after scaling the short side to `size`; the long side is rounded down."""
    if height <= width:
        return size, max(size, size * width // height)
    return max(size, size * height // width), size


def resize_crop(image: UInt8Array, size: int) -> UInt8Array:
    """Resize the short side to `size` (antialiased bicubic, Pillow's), then crop the centre.

    `image` is uint8 RGB [H, W, 3]; returns uint8 [size, size, 3].
    """
    height, width = image.shape[:2]
    if (height, width) == (size, size):
        return np.ascontiguousarray(image)
    new_height, new_width = short_side_size(height, width, size)
    top, left = (new_height - size) // 2, (new_width - size) // 2
    resized = Image.fromarray(np.ascontiguousarray(image)).resize(
        (new_width, new_height), Image.Resampling.BICUBIC
    )
    return np.asarray(resized.crop((left, top, left + size, top + size)))


def resize_crop_batch(images: Sequence[UInt8Array], size: int) -> UInt8Array:
    """`resize_crop` of every image; returns uint8 [B, size, size, 3]."""
    out = np.empty((len(images), size, size, 3), np.uint8)
    for row, image in zip(out, images, strict=True):
        row[...] = resize_crop(image, size)
    return out


def rescore(
    queries: Float32Array,
    candidates: Int64Array,
    vectors: Float16Array | Int8Array,
    creators: Int32Array,
    groups: Int32Array,
    *,
    temperature: Float32Array,
    threshold: Float32Array,
    background: Float32Array,
    top_k: int,
    top_creators: int,
    allowed: BoolBitmap | None = None,
    scales: Float32Array | None = None,
    out: Rescored | None = None,
) -> Rescored:
    """Exact similarities, top-k, calibrated shares and creator totals of each query's candidates.

    See `attributary.kernels.rescore` for shapes and the definition of a share.
    """
    out = Rescored.empty(len(queries), top_k, top_creators) if out is None else out
    for q in range(len(queries)):
        rows = candidates[q]
        rows = rows[rows >= 0]
        if rows.size and int(rows.max()) >= len(vectors):
            raise IndexError(
                f"candidate {int(rows.max())} of query {q} is outside the {len(vectors)} vectors"
            )
        if allowed is not None and rows.size:
            rows = rows[(allowed[rows >> 3] >> (rows & 7).astype(np.uint8)) & 1 == 1]
        rows = np.unique(rows)
        similarity = vectors[rows].astype(np.float32) @ queries[q]
        if scales is not None:
            similarity *= scales[rows]
        if not np.isfinite(similarity).all():
            row = int(rows[np.argmin(np.isfinite(similarity))])
            raise ValueError(f"the similarity of query {q} and row {row} is not finite")
        order = np.lexsort((rows, -similarity))
        rows, similarity = rows[order], similarity[order]
        share, diffuse = _shares(
            similarity, groups[rows], float(temperature[q]), float(threshold[q]), float(background[q])
        )
        kept = min(top_k, rows.size)
        out.rows[q, :kept] = rows[:kept]
        out.similarity[q, :kept] = similarity[:kept]
        out.share[q, :kept] = share[:kept]
        out.diffuse[q] = diffuse
        _creator_totals(out, q, creators[rows], share, top_creators)
    return out


def _shares(
    similarity: Float32Array, groups: Int32Array, temperature: float, threshold: float, background: float
) -> tuple[Float32Array, float]:
    """Shares of candidates sorted by descending similarity, and the diffuse remainder."""
    if similarity.size == 0:
        return np.zeros(0, np.float32), 1.0
    peak = max(float(similarity[0]), background)
    weight = np.maximum(np.exp((similarity.astype(np.float64) - peak) / temperature) - threshold, 0.0)
    null = float(np.exp((background - peak) / temperature))
    # A near-duplicate group counts once, with its best member's weight, divided in proportion to the members' own.
    _, member = np.unique(groups, return_inverse=True)
    best = np.zeros(member.max() + 1)
    np.maximum.at(best, member, weight)
    total = np.bincount(member, weight)
    with np.errstate(invalid="ignore", divide="ignore"):
        factor = np.where(total > 0, best / total, 0.0)
    norm = null + float(best.sum())
    share = (weight * factor[member] / norm).astype(np.float32)
    share[share < np.finfo(np.float32).tiny] = 0
    return share, null / norm


def _creator_totals(
    out: Rescored, q: int, creators: Int32Array, share: Float32Array, top_creators: int
) -> None:
    positive = share > 0
    names, member = np.unique(creators[positive], return_inverse=True)
    totals = np.bincount(member, share[positive], minlength=names.size)
    counts = np.bincount(member, minlength=names.size)
    order = np.lexsort((names, -totals))[:top_creators]
    out.creators[q, : order.size] = names[order]
    out.creator_share[q, : order.size] = totals[order]
    out.creator_items[q, : order.size] = counts[order]
