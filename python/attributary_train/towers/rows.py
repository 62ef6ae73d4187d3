"""Rows of unit length, in torch and in NumPy; a zero row stays zero."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

FloatArray = NDArray[np.float32]


def unit_rows(x: Tensor) -> Tensor:
    """Scale the rows of [B, F] to unit length."""
    # A limit, not a sum: the ONNX exporter takes x + 1e-12 for x, and a row of zeros becomes NaN. And under the root:
    # the gradient of a root at zero is infinite.
    return x * x.square().sum(dim=1, keepdim=True).clamp(min=1e-12).rsqrt()


def unit(x: FloatArray) -> FloatArray:
    """`unit_rows` in NumPy."""
    squared = np.square(x, dtype=np.float32).sum(axis=1, keepdims=True)
    return (x / np.sqrt(np.maximum(squared, 1e-12))).astype(np.float32)
