"""The second way to a GPU: ONNX Runtime's TensorRT and CUDA providers, with the same profiles and checks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .types import Precision, Runtime

Shapes = Mapping[str, tuple[tuple[int, ...], ...]]


def providers(
    runtime: Runtime, precision: Precision, shapes: Shapes, cache: Path
) -> list[str | tuple[str, dict[str, Any]]]:
    """Return the execution providers of `ort-tensorrt` or `ort-cuda`, with options as ONNX Runtime takes them.

    The TensorRT provider keeps engines and timings in `cache`. TensorFloat-32 is off: fp32 means fp32. CUDA stands
    behind TensorRT for nodes that it does not take.
    """
    cuda: tuple[str, dict[str, Any]] = ("CUDAExecutionProvider", {"use_tf32": "0"})
    if runtime == "ort-cuda":
        return [cuda]
    options = {
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(cache),
        "trt_engine_cache_prefix": f"encoder-{precision}",
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(cache),
        **{
            f"trt_profile_{end}_shapes": ",".join(
                f"{name}:{'x'.join(map(str, triple[place]))}" for name, triple in shapes.items()
            )
            for place, end in enumerate(("min", "opt", "max"))
        },
    }
    return [("TensorrtExecutionProvider", options), cuda]
