"""The kernels on a CUDA device: exact ranking with resident vectors, and resize and crop of equal-sized batches.

For tests and benchmarks: no engine calls it (docs/decisions/kernels-cuda.md). Shares are computed on the CPU, from what
`ResidentVectors.rank` returns (`attributary.kernels.share`).

Importing this module needs neither a driver nor the CUDA build; using it without one raises `CudaUnavailableError`.
The CUDA extension is built with `-C cmake.define.ATTRIBUTARY_CUDA=ON` where nvcc is installed.
"""

from __future__ import annotations

import functools
from types import ModuleType
from typing import Any, Final

import numpy as np

from attributary.errors import UnavailableError
from attributary.kernels.dispatch import KernelArgumentError
from attributary.kernels.rescoring import check_array, check_queries
from attributary.kernels.types import BoolBitmap, Float16Array, Float32Array, Int64Array, UInt8Array

MAX_TOP_K: Final = 1024


class CudaUnavailableError(UnavailableError):
    """There is no CUDA build, no driver or no device; the text says which."""


@functools.cache
def why_not() -> str:
    """Return why CUDA cannot be used here; empty where it can."""
    try:
        return str(_module().why_not())
    except CudaUnavailableError as error:
        return str(error)


def available() -> bool:
    """Tell whether the CUDA extension is built and a device can be used."""
    return why_not() == ""


def device_name() -> str:
    """Return the name of the device in use. Raises `CudaUnavailableError`."""
    return str(_ready().device_name())


def device_copy_rate() -> float:
    """Return the bytes a second that a copy on the device reads and writes together: the ceiling of the kernels."""
    return float(_ready().device_copy_rate())


def resize_crop_batch(images: UInt8Array, size: int) -> UInt8Array:
    """Resize and crop on the device; equal to `attributary.kernels.resize_crop_batch` bit for bit.

    `images` is uint8 [B, H, W, 3] on the host; returns uint8 [B, size, size, 3] on the host.
    Raises `CudaUnavailableError`, and `KernelArgumentError` for a wrong dtype, shape or size.
    """
    module = _ready()
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or 0 in images.shape[1:]:
        raise KernelArgumentError(
            "images", f"must be uint8 [B, H, W, 3]; got {images.dtype} {list(images.shape)}"
        )
    if not 1 <= size <= 4096:
        raise KernelArgumentError("size", f"{size} pixels; must be 1 to 4096")
    out = np.empty((len(images), size, size, 3), np.uint8)
    module.resize_crop_batch(np.ascontiguousarray(images), out)
    return out


class ResidentVectors:
    """A bundle's vectors on the device, with working memory for the largest batch; a query allocates nothing.

    Threads may share an instance: they take turns.
    """

    def __init__(self, vectors: Float16Array, *, max_queries: int = 64, max_candidates: int = 20_000) -> None:
        """Copy float16 [N, D] (D a multiple of 8, at most 8192) to the device.

        Raises `CudaUnavailableError`, and `KernelArgumentError` for a wrong dtype, shape or size.
        """
        module = _ready()
        if (
            vectors.dtype != np.float16
            or vectors.ndim != 2
            or vectors.shape[1] % 8
            or vectors.shape[1] > 8192
        ):
            raise KernelArgumentError("vectors", "must be float16 [N, D], D a multiple of 8 and at most 8192")
        if not 1 <= max_queries <= 65535:
            raise KernelArgumentError("max_queries", f"{max_queries}; must be 1 to 65535")
        if not 1 <= max_candidates <= 65536:
            raise KernelArgumentError("max_candidates", f"{max_candidates}; must be 1 to 65536")
        self._rows, self._dim = vectors.shape
        self._limits = (max_queries, max_candidates)
        self._resident = module.Resident(np.ascontiguousarray(vectors), *self._limits)

    def rank(
        self,
        queries: Float32Array,
        candidates: Int64Array,
        *,
        top_k: int,
        allowed: BoolBitmap | None = None,
    ) -> tuple[Int64Array, Float32Array]:
        """As `attributary.kernels.rank`; the same batch gives the same bits in every run.

        `top_k` is at most 1,024; Q and R are at most what the instance was made for.
        """
        queries = check_queries(queries, self._dim)
        candidates = check_array("candidates", candidates, np.int64, (len(queries), None))
        if allowed is not None:
            allowed = check_array("allowed", allowed, np.uint8, ((self._rows + 7) // 8,))
        limits = {
            "queries": (len(queries), self._limits[0]),
            "candidates": (candidates.shape[1], self._limits[1]),
            "top_k": (top_k, MAX_TOP_K),
        }
        for name, (number, limit) in limits.items():
            if not 0 <= number <= limit:
                raise KernelArgumentError(name, f"{number}; must be 0 to {limit}")
        rows = np.full((len(queries), top_k), -1, np.int64)
        similarity = np.zeros((len(queries), top_k), np.float32)
        self._resident.rank(queries, candidates, allowed, rows, similarity)
        return rows, similarity

    def replay_seconds(self, repeats: int = 20) -> float:
        """Return the device's seconds for the last batch once more, without copies from and to the host."""
        return float(self._resident.replay_seconds(repeats))


@functools.cache
def _module() -> ModuleType:
    try:
        from attributary.kernels import _native_cuda  # type: ignore[attr-defined, unused-ignore]
    except ImportError as error:
        raise CudaUnavailableError(f"this installation has no CUDA kernels ({error})") from error
    module: ModuleType = _native_cuda
    return module


def _ready() -> Any:
    reason = why_not()
    if reason:
        raise CudaUnavailableError(f"CUDA cannot be used: {reason}")
    return _module()
