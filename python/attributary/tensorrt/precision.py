"""The encoder's graph at a lower precision.

TensorRT for RTX and TensorRT 11 build strongly typed networks: the precision is the graph's, no builder flag. So the
graph is rewritten here, and the same file can be held to the golden queries on a CPU before any engine is built.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attributary.bundle.bundle import Bundle
from attributary.encoder.image import decode, prepare_pixels
from attributary.errors import InvalidArgumentError, UnavailableError

from .types import Precision

_PICTURES = {".png", ".jpg", ".jpeg", ".webp"}
_MOST_PICTURES = 512


def write_graph(bundle: Bundle, precision: Precision, scratch: Path, calibration: Path | None = None) -> Path:
    """Return the encoder's ONNX file at a precision: the bundle's own for fp32, else a new one in `scratch`.

    Inputs and output keep their types. fp16 is ONNX Runtime's converter. int8 is its static quantisation in QDQ
    form, symmetric and per channel as TensorRT asks, convolutions and matrix products only; ranges come from the
    pictures of `calibration`, or from the golden queries. Raises UnavailableError if the package onnx is missing.
    """
    if precision == "fp32":
        return bundle.encoder_path
    target = scratch / f"encoder-{precision}.onnx"
    if precision == "fp16":
        onnx, float16 = _need("onnx"), _need("onnxruntime.transformers.float16")
        graph = float16.convert_float_to_float16(onnx.load(bundle.encoder_path), keep_io_types=True)
        onnx.save(graph, target)
        return target
    _quantise(bundle, target, calibration)
    return target


def _quantise(bundle: Bundle, target: Path, calibration: Path | None) -> None:
    _need("onnx")
    quantization = _need("onnxruntime.quantization")
    shape_inference = _need("onnxruntime.quantization.shape_inference")
    prepared = target.with_name("prepared.onnx")
    shape_inference.quant_pre_process(bundle.encoder_path, prepared, skip_symbolic_shape=True)
    quantization.quantize_static(
        prepared,
        target,
        _Reader(_inputs(bundle, calibration)),
        quant_format=quantization.QuantFormat.QDQ,
        per_channel=True,
        op_types_to_quantize=["Conv", "Gemm", "MatMul"],
        activation_type=quantization.QuantType.QInt8,
        weight_type=quantization.QuantType.QInt8,
        # TensorRT takes symmetric scales and float biases.
        extra_options={"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False},
    )
    prepared.unlink()


class _Reader:
    """What the quantiser calls a calibration data reader: one query at a time."""

    def __init__(self, inputs: Iterator[dict[str, NDArray[Any]]]) -> None:
        self._inputs = inputs

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        """Return the next query, None after the last."""
        return next(self._inputs, None)


def _inputs(bundle: Bundle, calibration: Path | None) -> Iterator[dict[str, NDArray[Any]]]:
    golden = bundle.golden
    for row in range(len(golden.pixels)):
        part = slice(row, row + 1)
        yield {
            "pixels": golden.pixels[part],
            "token_ids": golden.token_ids[part],
            "token_mask": golden.token_mask[part],
        }
    for path in calibration_pictures(calibration) if calibration is not None else ():
        picture = decode(path.read_bytes(), field=f"calibration {path.name}")
        pixels = prepare_pixels(picture, bundle.manifest.encoder.image_size)
        nothing = np.zeros((1, 1), np.int64)
        yield {"pixels": pixels[None], "token_ids": nothing, "token_mask": nothing}


def calibration_pictures(directory: Path) -> list[Path]:
    """Return at most 512 pictures of a directory, evenly spread; raises InvalidArgumentError if it has none."""
    found = sorted(path for path in directory.rglob("*") if path.suffix.lower() in _PICTURES)
    if not found:
        raise InvalidArgumentError(
            "calibration", f"{directory} holds no picture ({', '.join(sorted(_PICTURES))})"
        )
    step = max(1, -(-len(found) // _MOST_PICTURES))
    return found[::step]


def _need(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UnavailableError(
            f"fp16 and int8 graphs need the package onnx ({error}); pip install 'attributary[tensorrt]'"
        ) from None
