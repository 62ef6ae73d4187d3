"""The golden queries hold or the engine is not recorded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from attributary.bundle.golden import GOLDEN, Golden
from attributary.errors import BundleError, UnavailableError

from .types import Precision

Run: TypeAlias = Callable[
    [NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]], NDArray[np.float32]
]  # pixels [B, S, S, 3], token ids and mask [B, T] -> embeddings [B, D]

# fp32 and int8 as in attribution/golden.py, so that a server that re-checks comes to the same answer.
MIN_COSINE: dict[Precision, float] = {"fp32": 0.9999, "fp16": 0.999, "int8": 0.97}


def hold_to_golden(run: Run, golden: Golden, precision: Precision, what: str, max_batch: int) -> float:
    """Embed the golden queries and return the smallest cosine to the expected embeddings.

    They are asked one by one and then in batches of `max_batch`, since an engine picks other kernels for other
    shapes. Raises BundleError naming `what`.
    """
    wanted = MIN_COSINE[precision]
    worst = 1.0
    for size in {1, min(max_batch, len(golden.pixels))}:
        for start in range(0, len(golden.pixels), size):
            part = slice(start, start + size)
            found = run(golden.pixels[part], golden.token_ids[part], golden.token_mask[part])
            expected = golden.embeddings[part]
            if found.shape != expected.shape:
                raise BundleError(what, f"gives embeddings {list(found.shape)}, not {list(expected.shape)}")
            cosine = float((found.astype(np.float64) * expected).sum(axis=1).min())
            # NaN compares false with everything; it must not pass as 1.0.
            worst = min(worst, cosine) if np.isfinite(cosine) else -1.0
            if not worst >= wanted:
                raise BundleError(
                    what, f"disagrees with {GOLDEN}: cosine {worst:.5f}, {precision} needs {wanted}"
                )
    return worst


def onnx_runner(path: Path, providers: Sequence[str | tuple[str, dict[str, Any]]]) -> Run:
    """Run an ONNX file by ONNX Runtime. Raises UnavailableError if it would quietly run on something else."""
    import onnxruntime as ort

    first = providers[0] if isinstance(providers[0], str) else providers[0][0]
    if first not in ort.get_available_providers():
        raise UnavailableError(
            f"this build of ONNX Runtime has no {first}; it has {', '.join(ort.get_available_providers())} "
            "(the GPU ones come with onnxruntime-gpu)"
        )
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(path, options, providers=[*providers])
    if session.get_providers()[0] != first:
        # A provider whose libraries or GPU are missing is dropped with a log line only.
        raise UnavailableError(
            f"{first} could not start; ONNX Runtime fell back to {session.get_providers()[0]}"
        )

    def run(
        pixels: NDArray[np.uint8], token_ids: NDArray[np.int64], token_mask: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        feed = {"pixels": pixels, "token_ids": token_ids, "token_mask": token_mask}
        embedding: NDArray[np.float32] = session.run(["embedding"], feed)[0]
        return embedding

    return run
