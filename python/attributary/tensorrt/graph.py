"""The encoder's graph at a lower precision, held to the bundle's golden queries on the CPU.

Networks are built strongly typed: the precision is the graph's, no builder flag. So the graph is rewritten here, and
the numbers that an engine will use are checked before any engine is built.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from attributary.bundle.bundle import Bundle
from attributary.bundle.golden import GOLDEN, Golden
from attributary.encoder.onnx import OnnxEncoder
from attributary.errors import BundleError, InvalidArgumentError, UnavailableError

Precision = Literal["fp32", "fp16"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16")
# fp32 as in attribution/golden.py, so that a server that checks again comes to the same answer.
MIN_COSINE: dict[Precision, float] = {"fp32": 0.9999, "fp16": 0.999}

Embed: TypeAlias = Callable[
    [NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]], NDArray[np.float32]
]  # pixels [B, S, S, 3], token ids and mask [B, T] -> embeddings [B, D]


@dataclass(frozen=True, slots=True)
class Profile:
    """Shapes that an engine takes: batches from 1, prompts up to the encoder's limit, and what it is tuned for."""

    opt_batch: int = 8
    max_batch: int = 32
    opt_tokens: int = 16

    def __post_init__(self) -> None:
        if not 1 <= self.opt_batch <= self.max_batch:
            raise InvalidArgumentError(
                "opt_batch", f"must lie between 1 and max_batch {self.max_batch}, got {self.opt_batch}"
            )
        if self.opt_tokens < 1:
            raise InvalidArgumentError("opt_tokens", f"must be at least 1, got {self.opt_tokens}")

    def shapes(self, image_size: int, max_tokens: int) -> Mapping[str, tuple[tuple[int, ...], ...]]:
        """Return input name -> (smallest, tuned, largest) shape."""
        pixels = tuple((batch, image_size, image_size, 3) for batch in (1, self.opt_batch, self.max_batch))
        tokens = ((1, 1), (self.opt_batch, min(self.opt_tokens, max_tokens)), (self.max_batch, max_tokens))
        return {"pixels": pixels, "token_ids": tokens, "token_mask": tokens}


@dataclass(frozen=True, slots=True)
class Request:
    """One engine to build from the encoder of the bundle directory `bundle` into the directory `out`."""

    bundle: Path
    out: Path
    precision: Precision = "fp16"
    profile: Profile = field(default_factory=Profile)

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise InvalidArgumentError(
                "precision", f"must be one of {', '.join(PRECISIONS)}, got {self.precision!r}"
            )


def write_graph(
    bundle: Bundle, precision: Precision, folder: Path, max_batch: int = 32
) -> tuple[Path, float]:
    """Return (the encoder's ONNX file at a precision, its smallest cosine to the golden queries on the CPU).

    The file is the bundle's own for fp32, else a new one in `folder` by ONNX Runtime's converter; inputs and output
    keep their types. Raises BundleError for a graph that disagrees, UnavailableError if the package onnx is missing.
    """
    graph = bundle.encoder_path
    # Refuses a file that is no encoder before anything is made of it.
    OnnxEncoder(graph)
    if precision == "fp16":
        onnx, float16 = _need("onnx"), _need("onnxruntime.transformers.float16")
        half = float16.convert_float_to_float16(onnx.load(graph), keep_io_types=True)
        graph = folder / "encoder-fp16.onnx"
        onnx.save(half, graph)
    what = f"encoder.onnx ({precision} graph)"
    return graph, hold_to_golden(cpu_embed(graph), bundle.golden, precision, what, max_batch)


def hold_to_golden(embed: Embed, golden: Golden, precision: Precision, what: str, max_batch: int) -> float:
    """Embed the golden queries and return the smallest cosine to the expected embeddings.

    They are embedded one by one and then in batches of `max_batch`, since an engine picks other kernels for other
    shapes. Raises BundleError naming `what`.
    """
    wanted = MIN_COSINE[precision]
    worst = 1.0
    for size in {1, min(max_batch, len(golden.pixels))}:
        for start in range(0, len(golden.pixels), size):
            part = slice(start, start + size)
            found = embed(golden.pixels[part], golden.token_ids[part], golden.token_mask[part])
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


def cpu_embed(path: Path) -> Embed:
    """Return a function that runs an ONNX file with ONNX Runtime on the CPU."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def embed(
        pixels: NDArray[np.uint8], token_ids: NDArray[np.int64], token_mask: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        feed = {"pixels": pixels, "token_ids": token_ids, "token_mask": token_mask}
        embedding: NDArray[np.float32] = session.run(["embedding"], feed)[0]
        return embedding

    return embed


def _need(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UnavailableError(
            f"fp16 graphs need the package onnx ({error}); pip install 'attributary[tensorrt]'"
        ) from None
