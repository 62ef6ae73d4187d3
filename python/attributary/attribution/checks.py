"""Limits on a query, checked before work is done; every refusal names the field and the limit."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from attributary.encoder.base import EncoderSpec
from attributary.errors import InvalidArgumentError, check_range
from attributary.kernels.preprocess import MAX_SIDE

from .types import Limits, Options

DEFAULT_COUNT = 10
# What float16 may leave of a 0 in an embedding that was stored.
_ROUNDING = 1e-3


def resolve_counts(options: Options, candidates: int, limits: Limits) -> tuple[int, int]:
    """Return (top_k, top_creators) with defaults filled in; raises InvalidArgumentError.

    `candidates` is R: an answer knows no more items and creators than that, so more are asked for in vain. It is no
    error, since what a bundle holds may shrink under a caller who asks for all of it.
    """
    top_k = DEFAULT_COUNT if options.top_k is None else options.top_k
    check_range("options.top_k", top_k, 1, limits.max_top_k)
    # Every creator may be asked for, whatever the limit on items: totals that are cut lose somebody.
    most = max(limits.max_top_k, candidates)
    top_creators = DEFAULT_COUNT if options.top_creators is None else options.top_creators
    check_range("options.top_creators", top_creators, 0, most)
    return min(top_k, candidates), min(top_creators, candidates)


def check_embedding(values: NDArray[np.float32], spec: EncoderSpec, field: str) -> NDArray[np.float32]:
    """Return the embedding scaled to unit length, float32 [D]; raises InvalidArgumentError."""
    vector = np.asarray(values, np.float32)
    if vector.shape != (spec.dim,):
        got = f"{vector.size}" if vector.ndim == 1 else f"an array of shape {vector.shape}"
        raise InvalidArgumentError(field, f"must have {spec.dim} values, got {got}")
    # In float64: the squares of large finite float32 values overflow.
    wide = vector.astype(np.float64)
    norm = math.sqrt(wide @ wide)
    if not math.isfinite(norm):
        raise InvalidArgumentError(field, "every value must be finite, got NaN or infinity")
    if norm < 1e-12:
        raise InvalidArgumentError(field, "must not be all zero")
    # Whoever could ask along it would choose who is paid: no picture does.
    if spec.lengths and abs(wide[-1]) > _ROUNDING * norm:
        raise InvalidArgumentError(
            field,
            "must have 0 as its last value: in this bundle the lengths of items lie there, not those of queries",
        )
    return (wide / norm).astype(np.float32)


def check_certainty(value: float | None, field: str) -> float | None:
    """Return what pixels were judged to be if it is in [0, 1]; raises InvalidArgumentError."""
    if value is not None:
        check_range(field, value, 0, 1)
    return value


def check_pixels(pixels: NDArray[np.uint8], limits: Limits, field: str) -> NDArray[np.uint8]:
    """Return the pixels if they are uint8 RGB [H, W, 3] within the limits; raises InvalidArgumentError."""
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise InvalidArgumentError(
            field, f"must be uint8 RGB [height, width, 3], got {pixels.dtype} {list(pixels.shape)}"
        )
    height, width = pixels.shape[:2]
    if height == 0 or width == 0:
        raise InvalidArgumentError(field, f"height and width must be at least 1, got {height} x {width}")
    if max(height, width) > MAX_SIDE:
        raise InvalidArgumentError(field, f"is {width} x {height} pixels, a side may have {MAX_SIDE}")
    if height * width > limits.max_image_pixels:
        raise InvalidArgumentError(
            field, f"has {height * width} pixels, the limit is {limits.max_image_pixels}"
        )
    return pixels


def check_prompt(prompt: str, limits: Limits, field: str) -> None:
    """Raise InvalidArgumentError if the prompt is longer than the limit in UTF-8 bytes."""
    # A character is at least one byte, so most prompts are settled without encoding them.
    if len(prompt) * 4 <= limits.max_prompt_bytes:
        return
    size = len(prompt.encode("utf-8", errors="replace"))
    if size > limits.max_prompt_bytes:
        raise InvalidArgumentError(field, f"has {size} bytes, the limit is {limits.max_prompt_bytes}")
