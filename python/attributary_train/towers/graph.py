"""Torch modules to ONNX files with their weights inside."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx_ir.passes.common import (
    CommonSubexpressionEliminationPass,
    InlinePass,
    RemoveUnusedNodesPass,
)
from torch import Tensor, nn

from attributary.bundle.files import write_whole

# The oldest pair that holds LayerNormalization and Gelu as single operators; ONNX Runtime 1.22 and later
# load it.
OPSET = 20
IR_VERSION = 10
_PLACEHOLDER = "exported_output"


def to_onnx(
    module: nn.Module,
    examples: Sequence[Tensor],
    inputs: Mapping[str, Mapping[int, str]],
    output: str | Sequence[str],
    path: Path,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Export `module` to one file; written under another name first, so never seen half done.

    `output` names what it returns, one name a tensor; `inputs` names the inputs in order, each with its dynamic axes
    ({0: "B"}); `metadata` goes into the file.
    """
    names = [output] if isinstance(output, str) else list(output)
    placeholders = [f"{_PLACEHOLDER}_{number}" for number in range(len(names))]
    axes: dict[str, torch.export.Dim] = {}
    for dims in inputs.values():
        for name in dims.values():
            axes.setdefault(name, torch.export.Dim(name, min=1, max=4096))
    shapes = tuple({axis: axes[name] for axis, name in dims.items()} for dims in inputs.values())
    with warnings.catch_warnings(), _quiet_exporter():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module.eval(),
            # The exporter takes one tensor that is passed twice for one input.
            tuple(example.clone() for example in examples),
            dynamo=True,
            opset_version=OPSET,
            input_names=list(inputs),
            output_names=placeholders,
            dynamic_shapes=shapes,
            verbose=False,
            optimize=False,
        )
        assert program is not None
        # The exporter's rules look at every pair of nodes; what is there many times goes before.
        for smaller in (InlinePass(), CommonSubexpressionEliminationPass(), RemoveUnusedNodesPass()):
            smaller(program.model)
        program.optimize()
    model = program.model_proto
    _rename_outputs(model, dict(zip(placeholders, names, strict=True)))
    model.ir_version = IR_VERSION
    model.producer_name = "attributary-train"
    # The exporter's notes hold file paths of the machine that ran it.
    model.doc_string = ""
    for node in model.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    described: list[Any] = [*model.graph.value_info, *model.graph.initializer]
    for value in [*described, *model.graph.input, *model.graph.output]:
        value.doc_string = ""
        if hasattr(value, "metadata_props"):
            del value.metadata_props[:]
    del model.metadata_props[:]
    set_metadata(model, metadata or {})
    write_model(model, path)


def set_metadata(model: onnx.ModelProto, metadata: Mapping[str, str]) -> None:
    """Set entries of the file's metadata, replacing those of the same key."""
    kept = [prop for prop in model.metadata_props if prop.key not in metadata]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    for key, value in sorted(metadata.items()):
        model.metadata_props.add(key=key, value=value)


def write_model(model: onnx.ModelProto, path: Path) -> None:
    """Check a model and put it at `path` in one step."""
    onnx.checker.check_model(model)
    write_whole(path, model.SerializeToString())


def _rename_outputs(model: onnx.ModelProto, public: Mapping[str, str]) -> None:
    """Give outputs their public names; an inner value that has one already steps aside."""
    renamed = {name: f"{name}_inner" for name in public.values()} | dict(public)
    for node in model.graph.node:
        node.input[:] = [renamed.get(value, value) for value in node.input]
        node.output[:] = [renamed.get(value, value) for value in node.output]
    for value in [*model.graph.value_info, *model.graph.output]:
        value.name = renamed.get(value.name, value.name)


class _quiet_exporter:  # noqa: N801 - reads as a function where it is used
    """Hold back the exporter's remarks about missing packages and about every constant that it folds."""

    def __enter__(self) -> None:
        loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnx_ir", "onnxscript")]
        self._levels = [(logger, logger.level) for logger in loggers]
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        os.environ.setdefault("HF_HUB_OFFLINE", "1")

    def __exit__(self, *_: object) -> None:
        for logger, level in self._levels:
            logger.setLevel(level)
