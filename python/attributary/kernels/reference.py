"""NumPy and Pillow versions of the compiled kernels: the oracle of their tests, and the fallback at run time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
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


def answer(
    vectors: Float16Array | Int8Array | None,
    scales: Float32Array | None,
    queries: Float32Array | None,
    similarity: Float32Array | None,
    candidates: Int64Array,
    creators: Int32Array,
    groups: Int32Array,
    calibration: Float32Array,
    visible: BoolBitmap | None,
    out: Rescored,
) -> None:
    """Fill `out` with the answers; see `attributary.kernels.rescore` for shapes and the definition of a share."""
    for q, row_of_candidates in enumerate(candidates):
        if similarity is None:
            assert vectors is not None and queries is not None
            rows = _distinct(row_of_candidates, len(vectors), q)
            cosine = _dot(rows, vectors, scales, queries[q])
        else:
            rows = _distinct(row_of_candidates, len(creators), q)
            given = row_of_candidates[row_of_candidates >= 0]
            first = np.unique(given, return_index=True)[1]
            cosine = similarity[q][row_of_candidates >= 0][first]
        rows, cosine = _sorted(rows, cosine, q)
        peak = float(cosine[0]) if cosine.size else 0.0
        share, out.diffuse[q] = _shares(cosine, groups[rows], *calibration[q].tolist())
        out.peak[q] = peak
        if visible is not None:
            seen = _bits(visible, rows)
            out.withheld[q] = share[~seen].sum(dtype=np.float64)
            rows, cosine, share = rows[seen], cosine[seen], share[seen]
        kept = min(out.rows.shape[1], rows.size)
        out.rows[q, :kept] = rows[:kept]
        out.similarity[q, :kept] = cosine[:kept]
        out.share[q, :kept] = share[:kept]
        _creator_totals(out, q, creators[rows], share, out.creators.shape[1])


def rank(
    queries: Float32Array,
    candidates: Int64Array,
    vectors: Float16Array | Int8Array,
    allowed: BoolBitmap | None,
    scales: Float32Array | None,
    out_rows: Int64Array,
    out_similarity: Float32Array,
) -> None:
    """Fill the outputs with the best rows; see `attributary.kernels.rank`."""
    for q in range(len(queries)):
        rows = _distinct(candidates[q], len(vectors), q)
        if allowed is not None:
            rows = rows[_bits(allowed, rows)]
        rows, cosine = _sorted(rows, _dot(rows, vectors, scales, queries[q]), q)
        kept = min(out_rows.shape[1], rows.size)
        out_rows[q, :kept], out_similarity[q, :kept] = rows[:kept], cosine[:kept]


def _distinct(candidates: Int64Array, store_rows: int, q: int) -> Int64Array:
    rows = candidates[candidates >= 0]
    if rows.size and int(rows.max()) >= store_rows:
        raise IndexError(f"candidate {int(rows.max())} of query {q} is outside the {store_rows} vectors")
    return np.unique(rows)


def _dot(
    rows: Int64Array, vectors: Float16Array | Int8Array, scales: Float32Array | None, query: Float32Array
) -> Float32Array:
    similarity = vectors[rows].astype(np.float32) @ query
    return similarity if scales is None else similarity * scales[rows]


def _sorted(rows: Int64Array, similarity: Float32Array, q: int) -> tuple[Int64Array, Float32Array]:
    if not np.isfinite(similarity).all():
        row = int(rows[np.argmin(np.isfinite(similarity))])
        raise ValueError(f"the similarity of query {q} and row {row} is not finite")
    order = np.lexsort((rows, -similarity))
    return rows[order], similarity[order]


def _bits(bitmap: BoolBitmap, rows: Int64Array) -> NDArray[np.bool_]:
    return np.asarray((bitmap[rows >> 3] >> (rows & 7).astype(np.uint8)) & 1, bool)


def _shares(
    similarity: Float32Array,
    groups: Int32Array,
    temperature: float,
    threshold: float,
    background: float,
    floor: float,
    foreign_below: float,
    margin: float,
    reach: float,
    reach_cut: float,
    reach_null: float,
) -> tuple[Float32Array, float]:
    """Shares of candidates sorted by descending similarity, and the diffuse remainder."""
    if similarity.size == 0 or float(similarity[0]) < foreign_below:
        return np.zeros(similarity.size, np.float32), 1.0
    peak = max(float(similarity[0]), background)
    # Where each group is met first, and so with its best member; no candidate that is
    # not nearer than the first of those out of reach has a share.
    first = np.sort(np.unique(groups, return_index=True)[1])
    beyond, faint = -np.inf, 0.0
    if 0 < reach < first.size:
        beyond = float(similarity[first[int(reach)]])
        faint = float(np.exp((beyond - peak) / temperature))
        threshold = max(threshold, reach_cut * faint)
    weight = np.maximum(np.exp((similarity.astype(np.float64) - peak) / temperature) - threshold, 0.0)
    weight[similarity <= beyond] = 0.0
    null = float(np.exp((background - peak) / temperature)) + reach_null * faint
    # A near-duplicate group counts once, with its best member's weight, divided in proportion to the members' own.
    _, member = np.unique(groups, return_inverse=True)
    best = np.zeros(member.max() + 1)
    np.maximum.at(best, member, weight)
    total = np.bincount(member, weight)
    with np.errstate(invalid="ignore", divide="ignore"):
        factor = np.where(total > 0, best / total, 0.0)
    named = (1.0 - floor) * _certainty(float(similarity[0]), foreign_below, margin)
    scale = named / (null + float(best.sum()))
    share = (weight * factor[member] * scale).astype(np.float32)
    share[share < np.finfo(np.float32).tiny] = 0
    return share, 1.0 - named + null * scale


def _certainty(peak: float, foreign_below: float, margin: float) -> float:
    """The part of an answer that its items may have: 0 at the flag's threshold, 1 a margin above it."""
    return 1.0 if margin <= 0 else min(max((peak - foreign_below) / margin, 0.0), 1.0)


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
