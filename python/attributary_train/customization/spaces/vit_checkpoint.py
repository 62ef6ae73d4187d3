"""Vision transformers from a published checkpoint: DINO, DINOv2, MoCo-v3, supervised; one naming, one converter.

All four are published with timm's names (`blocks.0.attn.qkv.weight`); transformers holds the same architecture under
names of its own. The width says the heads (64 channels each), the position table the size of the picture.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    ViTConfig,
    ViTModel,
)

from attributary_train.errors import CustomizationError

_WRAPPERS = ("state_dict", "teacher", "model", "model_state")
_PREFIXES = ("module.", "base_encoder.", "momentum_encoder.", "backbone.", "encoder_q.", "_orig_mod.")
_PLAIN = {
    "cls_token": "embeddings.cls_token",
    "pos_embed": "embeddings.position_embeddings",
    "mask_token": "embeddings.mask_token",
    "register_tokens": "embeddings.register_tokens",
    "patch_embed.proj.weight": "embeddings.patch_embeddings.projection.weight",
    "patch_embed.proj.bias": "embeddings.patch_embeddings.projection.bias",
    "norm.weight": "layernorm.weight",
    "norm.bias": "layernorm.bias",
}
_BLOCK = re.compile(r"blocks\.(\d+)\.(.+)")
_HEAD_WIDTH = 64


def read_state(path: Path) -> dict[str, Tensor]:
    """The state dict in a file of torch or safetensors, without the wrappers and prefixes that trainers add."""
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state: Any = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0] if str(error) else repr(error)
        raise CustomizationError(str(path), f"not a readable checkpoint: {reason}") from error
    for name in _WRAPPERS:
        if isinstance(state, Mapping) and isinstance(state.get(name), Mapping):
            state = state[name]
    if not isinstance(state, Mapping):
        raise CustomizationError(str(path), "holds no state dict")
    out: dict[str, Tensor] = {}
    for key, value in state.items():
        plain = str(key)
        while prefix := next((prefix for prefix in _PREFIXES if plain.startswith(prefix)), None):
            plain = plain[len(prefix) :]
        if isinstance(value, Tensor):
            # Of a pair of encoders the first one listed counts: MoCo's query encoder.
            out.setdefault(plain, value.float())
    return out


def load_vit(path: Path) -> tuple[nn.Module, int]:
    """A transformer and the size of the pictures it was trained on, pixels.

    Raises `CustomizationError` naming the tensor that is missing or the file that is not a vision transformer.
    """
    state = read_state(path)
    for name in ("cls_token", "pos_embed", "patch_embed.proj.weight", "blocks.0.attn.qkv.weight"):
        if name not in state:
            raise CustomizationError(str(path), f"has no {name}: not a vision transformer under timm's names")
    width, _, patch, _ = state["patch_embed.proj.weight"].shape
    depth = 1 + max(int(found[1]) for key in state if (found := _BLOCK.match(key)))
    side = round((state["pos_embed"].shape[1] - 1) ** 0.5)
    if side * side + 1 != state["pos_embed"].shape[1] or width % _HEAD_WIDTH:
        raise CustomizationError(
            str(path), f"pos_embed {tuple(state['pos_embed'].shape)} is of no known layout"
        )
    shape = {
        "hidden_size": width,
        "num_hidden_layers": depth,
        "num_attention_heads": width // _HEAD_WIDTH,
        "patch_size": patch,
        "image_size": side * patch,
        "layer_norm_eps": 1e-6,
    }
    second = "blocks.0.ls1.gamma" in state
    if second and "register_tokens" in state:
        count = int(state["register_tokens"].shape[1])
        net: nn.Module = Dinov2WithRegistersModel(
            Dinov2WithRegistersConfig(**shape, num_register_tokens=count, mlp_ratio=_mlp(state) // width)
        )
    elif second:
        net = Dinov2Model(Dinov2Config(**shape, mlp_ratio=_mlp(state) // width))
    else:
        net = ViTModel(ViTConfig(**shape, intermediate_size=_mlp(state)), add_pooling_layer=False)
    missing, unexpected = net.load_state_dict(_converted(state, second), strict=False)
    missing = [name for name in missing if not name.endswith("mask_token")]
    if missing or unexpected:
        raise CustomizationError(
            str(path), f"lacks {missing[:1] or 'nothing'}, has unknown {unexpected[:1] or 'nothing'}"
        )
    # DINOv2 is trained at 518 pixels in its last steps and used at 224: its table is interpolated.
    return net.eval().requires_grad_(False), 224 if second else side * patch


def _mlp(state: Mapping[str, Tensor]) -> int:
    if "blocks.0.mlp.fc1.weight" not in state:
        raise CustomizationError(
            "blocks.0.mlp.fc1", "is missing: gated feed-forward layers (ViT-g) are not read"
        )
    return int(state["blocks.0.mlp.fc1.weight"].shape[0])


def _converted(state: Mapping[str, Tensor], second: bool) -> dict[str, Tensor]:
    out: dict[str, Tensor] = {}
    norms = ("norm1", "norm2") if second else ("layernorm_before", "layernorm_after")
    parts = {
        "norm1": norms[0],
        "norm2": norms[1],
        "attn.proj": "attention.o_proj",
        "mlp.fc1": "mlp.fc1",
        "mlp.fc2": "mlp.fc2",
    }
    for key, value in state.items():
        if key in _PLAIN and (second or key != "mask_token"):
            out[_PLAIN[key]] = value
        if not (found := _BLOCK.match(key)):
            continue
        block = f"{'encoder.layer' if second else 'layers'}.{found[1]}"
        name, _, kind = found[2].rpartition(".")
        if name == "attn.qkv":
            for letter, part in zip("qkv", value.chunk(3), strict=True):
                out[f"{block}.attention.{letter}_proj.{kind}"] = part
        elif name in ("ls1", "ls2"):
            out[f"{block}.layer_scale{name[-1]}.lambda1"] = value
        elif name == "" and kind in ("gamma_1", "gamma_2"):
            out[f"{block}.layer_scale{kind[-1]}.lambda1"] = value
        else:
            # What is not understood keeps its name, which no model has: left out it would change every feature.
            out[f"{block}.{parts[name]}.{kind}" if name in parts else key] = value
    return out
