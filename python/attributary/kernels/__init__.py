"""The compiled kernels behind one typed face; NumPy and Pillow where the extension cannot load."""

from __future__ import annotations

from .reference import resize_crop, resize_crop_batch, rescore
from .types import Rescored

__all__ = ["Rescored", "rescore", "resize_crop", "resize_crop_batch"]
