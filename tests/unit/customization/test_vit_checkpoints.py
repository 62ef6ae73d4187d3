"""Published weights of vision transformers: what they compute, in which layouts they are read, what is refused."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from attributary_train.customization.spaces.base import Context, embed
from attributary_train.customization.spaces.table import open_space
from attributary_train.customization.spaces.vit_checkpoint import load_vit, read_state
from attributary_train.errors import CustomizationError

PICTURES = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
TEXTS = ("a", "b", "c")


def vit_state(width=128, depth=3, patch=16, side=14, scales=False, seed=0):
    """A vision transformer's weights under timm's names, random."""
    stream = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(shape, generator=stream) * 0.05

    state = {
        "cls_token": draw(1, 1, width),
        "pos_embed": draw(1, side * side + 1, width),
        "patch_embed.proj.weight": draw(width, 3, patch, patch),
        "patch_embed.proj.bias": draw(width),
        "norm.weight": 1 + draw(width),
        "norm.bias": draw(width),
    }
    for at in range(depth):
        block = f"blocks.{at}"
        for norm in ("norm1", "norm2"):
            state |= {f"{block}.{norm}.weight": 1 + draw(width), f"{block}.{norm}.bias": draw(width)}
        for name, rows, columns in (
            ("attn.qkv", 3 * width, width),
            ("attn.proj", width, width),
            ("mlp.fc1", 4 * width, width),
            ("mlp.fc2", width, 4 * width),
        ):
            state |= {f"{block}.{name}.weight": draw(rows, columns), f"{block}.{name}.bias": draw(rows)}
        if scales:
            state |= {f"{block}.ls1.gamma": draw(width), f"{block}.ls2.gamma": draw(width)}
    return state


def vit_answer(state, pixels):
    """The class token after the last norm, by the paper's equations (Dosovitskiy et al., 2021)."""
    width, patch = state["patch_embed.proj.weight"].shape[0], state["patch_embed.proj.weight"].shape[-1]
    x = F.conv2d(pixels, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], stride=patch)
    x = (
        torch.cat([state["cls_token"].expand(len(x), -1, -1), x.flatten(2).transpose(1, 2)], 1)
        + state["pos_embed"]
    )
    heads = width // 64

    def norm(x, name):
        return F.layer_norm(x, (width,), state[f"{name}.weight"], state[f"{name}.bias"], 1e-6)

    def linear(x, name):
        return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])

    for at in range(sum(key.endswith("norm1.weight") for key in state)):
        block = f"blocks.{at}"
        parts = (
            linear(norm(x, f"{block}.norm1"), f"{block}.attn.qkv")
            .unflatten(2, (3, heads, 64))
            .permute(2, 0, 3, 1, 4)
        )
        mixed = (parts[0] @ parts[1].transpose(-1, -2) / 8.0).softmax(-1) @ parts[2]
        step = linear(mixed.transpose(1, 2).flatten(2), f"{block}.attn.proj")
        x = x + step * state.get(f"{block}.ls1.gamma", 1.0)
        step = linear(F.gelu(linear(norm(x, f"{block}.norm2"), f"{block}.mlp.fc1")), f"{block}.mlp.fc2")
        x = x + step * state.get(f"{block}.ls2.gamma", 1.0)
    return norm(x, "norm")[:, 0]


@pytest.mark.parametrize(
    ("wrap", "scales"),
    [
        (lambda state: state, False),  # DINO, supervised
        (
            lambda state: {"teacher": {f"module.backbone.{k}": v for k, v in state.items()}},
            False,
        ),  # DINO's full file
        (
            lambda state: {"state_dict": {f"module.base_encoder.{k}": v for k, v in state.items()}},
            False,
        ),  # MoCo-v3
        (lambda state: state, True),  # DINOv2
    ],
)
def test_a_checkpoint_computes_what_its_architecture_says(tmp_path, wrap, scales):
    patch = 14 if scales else 16
    side = 16 if scales else 14
    state = vit_state(patch=patch, side=side, scales=scales)
    torch.save(wrap(state), tmp_path / "vit.pth")
    net, size = load_vit(tmp_path / "vit.pth")
    assert size == 224
    pixels = torch.randn((2, 3, 224, 224), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        assert torch.allclose(net(pixels).last_hidden_state[:, 0], vit_answer(state, pixels), atol=1e-4)


def test_published_sizes_load(tmp_path):
    """ViT-S/16 as DINO has it and ViT-S/14 as DINOv2 has it, position table of 518 pixels."""
    torch.save(vit_state(384, 12), tmp_path / "dino.pth")
    torch.save(
        vit_state(384, 12, 14, 37, scales=True) | {"mask_token": torch.zeros(1, 384)}, tmp_path / "dinov2.pth"
    )
    for name in ("dino", "dinov2"):
        space = open_space(f"{name}={tmp_path / name}.pth", Context(tmp_path))
        assert space.dim == 384
        rows = embed(space, PICTURES[:1], TEXTS[:1], None)
        assert rows.shape == (1, 384) and np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)


def test_what_is_no_vision_transformer_is_named(tmp_path):
    path = tmp_path / "x.pth"
    path.write_bytes(b"nothing")
    with pytest.raises(CustomizationError, match="not a readable checkpoint"):
        load_vit(path)
    torch.save({"a": torch.zeros(1)}, path)
    with pytest.raises(CustomizationError, match="has no cls_token"):
        load_vit(path)
    state = vit_state(depth=1)
    del state["blocks.0.norm2.bias"]
    torch.save(state, path)
    with pytest.raises(CustomizationError, match="lacks"):
        load_vit(path)


def test_states_are_read_from_safetensors(tmp_path):
    from safetensors.torch import save_file

    save_file({"module.a": torch.ones(2)}, tmp_path / "a.safetensors")
    assert list(read_state(tmp_path / "a.safetensors")) == ["a"]


def test_vits_from_folders_in_transformers_layout(tmp_path):
    """DINOv2 and a supervised ViT as `save_pretrained` writes them, random weights."""
    from transformers import Dinov2Config, Dinov2Model, ViTConfig, ViTModel

    torch.manual_seed(0)
    sizes = {"hidden_size": 384, "num_attention_heads": 6, "num_hidden_layers": 1}
    Dinov2Model(Dinov2Config(**sizes, patch_size=14, image_size=518)).save_pretrained(tmp_path / "dinov2")
    ViTModel(ViTConfig(**sizes, intermediate_size=64)).save_pretrained(tmp_path / "dino")
    for name in ("dinov2", "dino"):
        space = open_space(f"{name}={tmp_path / name}", Context(tmp_path))
        assert space.dim == 384
        rows = space.features(PICTURES, TEXTS)
        assert rows.shape == (3, 384) and np.isfinite(rows).all() and np.ptp(rows, axis=0).max() > 0
