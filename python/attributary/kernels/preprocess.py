"""Resize and crop: the typed face of the preprocessing kernel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from . import reference
from .dispatch import NUMPY, KernelArgumentError, active, native
from .types import UInt8Array

MAX_SIDE: Final = 2**24  # pixels; Pillow's own coordinates are exact up to here
MAX_SIZE: Final = 4096  # pixels


def resize_crop(image: UInt8Array, size: int) -> UInt8Array:
    """Resize the short side to `size` pixels (antialiased bicubic), then crop the centre.

    `image` is uint8 RGB [H, W, 3], sides of 1 to 2^24 pixels, any strides (adjacent pixels are read in place, other
    layouts are copied first). Returns a new uint8 [size, size, 3].

    The result equals `PIL.Image.resize(..., BICUBIC)` and a centre crop of Pillow 13.0.0 bit for bit, its order of
    passes included: vertical first where the height shrinks by more than twice what the width does. The long side
    is rounded down. Only the rows and columns inside the crop are computed, so that an extreme aspect ratio costs
    no memory. Working memory is kept by each thread; the GIL is released.

    Raises `KernelArgumentError` (a `ValueError`) for another dtype, shape or size.
    """
    out: UInt8Array = resize_crop_batch([image], size)[0]
    return out


def resize_crop_batch(
    images: Sequence[UInt8Array], size: int, *, out: UInt8Array | None = None, threads: int = 1
) -> UInt8Array:
    """`resize_crop` of every image, which may differ in size; returns uint8 [B, size, size, 3].

    `out`, where given, is a C-contiguous uint8 [B, size, size, 3] that is filled and returned. `threads` is how
    many threads share the images (0: one a core). Raises `KernelArgumentError` naming the image at fault.
    """
    if not 1 <= size <= MAX_SIZE:
        raise KernelArgumentError("size", f"{size} pixels; must be 1 to {MAX_SIZE}")
    if threads < 0:
        raise KernelArgumentError("threads", f"{threads}; must be 0 (one a core) or more")
    prepared = [_prepared(image, f"images[{i}]") for i, image in enumerate(images)]
    shape = (len(prepared), size, size, 3)
    if out is None:
        out = np.empty(shape, np.uint8)
    elif out.dtype != np.uint8 or out.shape != shape or not out.flags.c_contiguous or not out.flags.writeable:
        raise KernelArgumentError("out", f"must be a writeable C-contiguous uint8 array of shape {shape}")
    isa = active()
    module, _ = native()
    if isa == NUMPY or module is None:
        for target, image in zip(out, prepared, strict=True):
            target[...] = reference.resize_crop(image, size)
    else:
        module.resize_crop_batch(prepared, out, isa, threads)
    return out


def _prepared(image: UInt8Array, field: str) -> UInt8Array:
    """Check an image, and copy it where its pixels are not adjacent."""
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
        found = image.dtype if isinstance(image, np.ndarray) else type(image).__name__
        raise KernelArgumentError(field, f"must be a uint8 array; got {found}")
    if image.ndim != 3 or image.shape[2] != 3:
        raise KernelArgumentError(field, f"must have shape [height, width, 3]; got {list(image.shape)}")
    height, width = image.shape[:2]
    if not (1 <= height <= MAX_SIDE and 1 <= width <= MAX_SIDE):
        raise KernelArgumentError(field, f"{width} x {height} pixels; each side must be 1 to {MAX_SIDE}")
    adjacent = image.strides[2] == 1 and (image.strides[1] == 3 or width == 1)
    return image if adjacent else np.ascontiguousarray(image)
