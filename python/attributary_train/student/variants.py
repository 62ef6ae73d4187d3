"""Variants of an exported encoder: fp16 for GPUs, int8 for CPUs, each named as a variant of the original."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import onnx
from onnxruntime.transformers.float16 import convert_float_to_float16

from attributary.encoder.onnx import META_VARIANT_OF, OnnxEncoder
from attributary_train.towers.graph import set_metadata, write_model

from .export import ENCODER, ENCODER_INT8, Samples, cosines, export_int8

ENCODER_FP16 = "encoder.fp16.onnx"
# Operators whose sums or small constants do not survive 10 bits of mantissa.
_KEPT = (
    "ReduceSum",
    "ReduceMean",
    "Reciprocal",
    "Sqrt",
    "Rsqrt",
    "Pow",
    "Softmax",
    "LayerNormalization",
    "Range",
)


def export_variants(folder: Path, samples: Samples, *, float_convolutions: int = 1) -> dict[str, Any]:
    """Write encoder.fp16.onnx and encoder.int8.onnx beside encoder.onnx; returns their facts."""
    original = folder / ENCODER
    fp16 = folder / ENCODER_FP16
    write_fp16(original, fp16)
    facts: dict[str, Any] = {
        "fp16": {
            "bytes": fp16.stat().st_size,
            "cosine_to_fp32": cosines(OnnxEncoder(original), OnnxEncoder(fp16), samples),
        }
    }
    facts["int8"] = export_int8(original, folder / ENCODER_INT8, samples, float_convolutions)
    return facts


def write_fp16(original: Path, target: Path) -> None:
    """Weights and sums of convolutions and matrices in half precision; inputs and output as they were."""
    logging.disable(logging.WARNING)
    try:
        model = convert_float_to_float16(
            onnx.load(original), keep_io_types=True, op_block_list=list(_KEPT), disable_shape_infer=False
        )
    finally:
        logging.disable(logging.NOTSET)
    _sort(model.graph)
    set_metadata(model, {META_VARIANT_OF: OnnxEncoder(original).spec.digest})
    write_model(model, target)


def _sort(graph: onnx.GraphProto) -> None:
    """Put nodes behind what they read, each once: the converter appends its casts, one for every reader."""
    made = {value.name for value in graph.input} | {value.name for value in graph.initializer} | {""}
    waiting, ready = list({tuple(node.output): node for node in graph.node}.values()), []
    while waiting:
        now = [node for node in waiting if made.issuperset(node.input)]
        if not now:
            raise ValueError("the graph has a cycle")
        made.update(name for node in now for name in node.output)
        ready += now
        done = {id(node) for node in now}
        waiting = [node for node in waiting if id(node) not in done]
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in ready]
    del graph.node[:]
    graph.node.extend(copies)
