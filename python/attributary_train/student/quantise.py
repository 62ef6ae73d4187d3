"""An int8 variant of an exported encoder: static for the convolutions, weight-only for the text tower.

Dynamic quantisation, the usual choice on CPU, is not used: it scales activations by the extremes of the
whole batch, so an embedding would depend on its batch mates; and ONNX Runtime's dynamic convolution is
slower than the fp32 one.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, MatMulNBitsQuantizer

from attributary_train.towers.graph import write_model

_CONVOLUTIONAL = ("Conv", "Add", "Clip")
# The first convolutions see the widest range of values: leaving six of them in fp32 brought the mean cosine to fp32
# from 0.969 to 0.994 and the worst from 0.85 to 0.99 (docs/encoder.md).
FLOAT_CONVOLUTIONS = 6


def quantise(
    source: Path,
    target: Path,
    calibration: NDArray[np.uint8],
    *,
    float_convolutions: int = FLOAT_CONVOLUTIONS,
) -> None:
    """Write the int8 variant of the encoder `source` to `target`.

    `calibration` is uint8 [N, S, S, 3], pictures of the corpus, whose activations set the scales. The first
    `float_convolutions` and what lies between them stay in fp32.
    """
    # ONNX Runtime's tools tell every tensor to the root logger.
    logging.disable(logging.WARNING)
    try:
        _quantise(source, target, calibration, float_convolutions)
    finally:
        logging.disable(logging.NOTSET)


def _quantise(source: Path, target: Path, calibration: NDArray[np.uint8], skip: int) -> None:
    nodes = image_nodes(onnx.load(source), skip)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        static = Path(folder) / "static.onnx"
        quantize_static(
            source,
            static,
            _Pictures(calibration),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(_CONVOLUTIONAL),
            nodes_to_quantize=nodes,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
        )
        model = onnx.load(static)
    config = DefaultWeightOnlyQuantConfig(block_size=64, is_symmetric=True, accuracy_level=4, bits=8)
    quantizer = MatMulNBitsQuantizer(model, algo_config=config)
    quantizer.process()
    write_model(quantizer.model.model, target)


def image_nodes(model: onnx.ModelProto, skip: int = 0) -> list[str]:
    """Names of the convolutional nodes that only the pixels feed, from convolution number `skip` on."""
    from_pixels, from_text = {"pixels"}, {"token_ids", "token_mask"}
    names: list[str] = []
    convolutions = 0
    for node in model.graph.node:
        if from_text.intersection(node.input):
            from_text.update(node.output)
        elif from_pixels.intersection(node.input):
            from_pixels.update(node.output)
            convolutions += node.op_type == "Conv"
            if node.op_type in _CONVOLUTIONAL and convolutions > skip:
                names.append(node.name)
    return names


class _Pictures(CalibrationDataReader):  # type: ignore[misc]
    """Feeds pictures without a prompt, a few at a time."""

    def __init__(self, pictures: NDArray[np.uint8], batch: int = 8) -> None:
        self._feeds = self._batches(pictures, batch)

    @staticmethod
    def _batches(pictures: NDArray[np.uint8], batch: int) -> Iterator[dict[str, NDArray[np.generic]]]:
        for start in range(0, len(pictures), batch):
            part = pictures[start : start + batch]
            empty = np.zeros((len(part), 1), np.int64)
            yield {"pixels": part, "token_ids": empty, "token_mask": empty}

    def get_next(self) -> dict[str, NDArray[np.generic]] | None:
        return next(self._feeds, None)
