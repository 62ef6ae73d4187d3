"""The compiled kernels behind one typed face; NumPy and Pillow where the extension cannot load.

`resize_crop` and `resize_crop_batch` prepare pixels for an encoder; `rescore` turns candidates into ranked items,
shares and creator totals (`share` where their similarities are known already, `rank` where order is all); `scan` finds
candidates in inverted lists, `can_scan` where it can be had. `info()` tells which path is taken; the environment
variable ATTRIBUTARY_KERNELS (avx512, avx2, portable or numpy) forces one.
"""

from __future__ import annotations

from .dispatch import KernelArgumentError, KernelsFallbackWarning, KernelsInfo, info, reply_writer
from .preprocess import resize_crop, resize_crop_batch
from .rescoring import rank, rescore, share
from .scanning import ByteLists, can_scan, scan
from .types import CALIBRATION, Rescored

__all__ = [
    "CALIBRATION",
    "ByteLists",
    "KernelArgumentError",
    "KernelsFallbackWarning",
    "KernelsInfo",
    "Rescored",
    "can_scan",
    "info",
    "rank",
    "reply_writer",
    "rescore",
    "resize_crop",
    "resize_crop_batch",
    "scan",
    "share",
]
