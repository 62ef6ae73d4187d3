"""An encoder whose items have lengths, made of one whose items are where queries are."""

import shutil

import onnx
import onnx.version_converter
import torch

from attributary.encoder.onnx import ITEM, OUTPUT
from attributary_train.towers.graph import IR_VERSION, OPSET, to_onnx, write_model

_BARE = "embedding_of_unit_items"


class Long(torch.nn.Module):
    """As `GradientHead`: an item is a query before it has unit length, less what is shared, and one more coordinate."""

    def __init__(self, dim, shared=0.5):
        super().__init__()
        rng = torch.Generator().manual_seed(0)
        self.register_buffer("turn", torch.randn(dim, dim - 1, generator=rng) / dim**0.5)
        self.register_buffer("shared", shared * torch.randn(dim - 1, generator=rng) / dim**0.5)

    def forward(self, embedding):
        found = embedding @ self.turn
        long = found.norm(dim=1, keepdim=True)
        none = torch.zeros_like(long)
        away = found - self.shared
        item = 0.9 * away / (1.0 + away.norm(dim=1, keepdim=True))
        rest = (1.0 - item.square().sum(1, keepdim=True)).sqrt()
        return torch.cat([found / long, none], 1), torch.cat([item, rest], 1)


def lengthen(encoder_dir, folder, dim, shared=0.5):
    """Write `encoder_dir` to `folder` with the second output."""
    shutil.copytree(encoder_dir, folder)
    first = onnx.version_converter.convert_version(onnx.load(encoder_dir / "encoder.onnx"), OPSET)
    first.ir_version = IR_VERSION
    to_onnx(Long(dim, shared), [torch.zeros(2, dim)], {_BARE: {0: "B"}}, (OUTPUT, ITEM), folder / "long.onnx")
    second = onnx.compose.add_prefix(
        onnx.load(folder / "long.onnx"), "long.", rename_inputs=False, rename_outputs=False
    )
    (folder / "long.onnx").unlink()
    for node in first.graph.node:
        node.input[:] = [_BARE if name == OUTPUT else name for name in node.input]
        node.output[:] = [_BARE if name == OUTPUT else name for name in node.output]
    first.graph.output[0].name = _BARE
    joined = onnx.compose.merge_models(first, second, io_map=[(_BARE, _BARE)])
    write_model(joined, folder / "encoder.onnx")
    return folder
