"""Loaders of published encoders on random weights in the layouts that transformers, timm and open_clip write.

`layouts.txt` holds names and shapes as timm and open_clip write them, so that these are met where the libraries are not
installed (they need a torchvision that fits torch); where they are, they build and write the files themselves.
"""

import importlib.machinery
import json
import re
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from attributary_train.customization.spaces.base import Context, resized
from attributary_train.customization.spaces.published import CLIP, IMAGENET
from attributary_train.customization.spaces.table import open_space
from attributary_train.customization.spaces.vit_checkpoint import load_vit
from attributary_train.errors import CustomizationError

PICTURES = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
TEXTS = ("a", "b")
LAYOUTS = Path(__file__).with_name("layouts.txt")
SMALL = {"hidden_size": 64, "num_attention_heads": 1, "num_hidden_layers": 2, "intermediate_size": 128}


def layout(title, blocks=2):
    """Random weights under a layout's names; its blocks are repeated so many times."""
    stream = torch.Generator().manual_seed(0)
    state, found = {}, False
    for line in LAYOUTS.read_text().splitlines():
        if line.startswith("["):
            found = line.startswith(f"[{title}]")
        elif found:
            name, _, shape = line.partition(" ")
            sizes = [int(side) for side in shape.split("x")] if shape != "-" else []
            for at in range(blocks if ".*." in name else 1):
                state[name.replace(".*.", f".{at}.")] = 0.05 * torch.randn(sizes, generator=stream)
    assert state, title
    return state


def asked_of(net, size, statistics):
    """What a network says of the pictures, normalised."""
    mean, deviation = (torch.tensor(values)[:, None, None] for values in statistics)
    pixels = torch.from_numpy(resized(PICTURES, size)).permute(0, 3, 1, 2).float() / 255.0
    with torch.inference_mode():
        return net((pixels - mean) / deviation)


def drawn(net, seed=7):
    torch.manual_seed(seed)
    with torch.no_grad():
        for value in net.parameters():
            value.normal_(0, 0.05)
    return net.eval()


# transformers: the names of published folders (`encoder.layer.0.attention.attention.query.weight`)


def test_clip_of_transformers_with_both_towers_in_one_folder(tmp_path):
    from transformers import CLIPConfig, CLIPModel

    net = drawn(
        CLIPModel(
            CLIPConfig(
                text_config={**SMALL, "vocab_size": 20, "bos_token_id": 0, "eos_token_id": 1},
                vision_config={**SMALL, "image_size": 32, "patch_size": 16, "projection_dim": 24},
                projection_dim=24,
            )
        )
    )
    net.save_pretrained(tmp_path / "clip")
    assert json.loads((tmp_path / "clip" / "config.json").read_text())["model_type"] == "clip"
    space = open_space(f"clip={tmp_path / 'clip'}", Context(tmp_path))
    seen = asked_of(lambda x: net.visual_projection(net.vision_model(x).pooler_output), 32, CLIP)
    assert space.dim == 24 and np.allclose(space.features(PICTURES, TEXTS), seen.numpy(), atol=1e-5)


@pytest.mark.parametrize("kind", ["vit", "dinov2", "registers"])
def test_vision_transformers_of_transformers(tmp_path, kind):
    import transformers as library
    from safetensors import safe_open

    sizes = {"hidden_size": 64, "num_attention_heads": 1, "num_hidden_layers": 2, "image_size": 32}
    net = {
        # Published DINO folders have no pooler.
        "vit": lambda: library.ViTModel(
            library.ViTConfig(**sizes, intermediate_size=128), add_pooling_layer=False
        ),
        "dinov2": lambda: library.Dinov2Model(library.Dinov2Config(**sizes, patch_size=16)),
        "registers": lambda: library.Dinov2WithRegistersModel(
            library.Dinov2WithRegistersConfig(**sizes, patch_size=16)
        ),
    }[kind]()
    drawn(net).save_pretrained(tmp_path / kind)
    with safe_open(tmp_path / kind / "model.safetensors", "pt") as file:
        # As the folders that are published name it, whatever the library calls it inside.
        assert "encoder.layer.0.attention.attention.query.weight" in file.keys()  # noqa: SIM118
    space = open_space(f"{'dino' if kind == 'vit' else 'dinov2'}={tmp_path / kind}", Context(tmp_path))
    wanted = asked_of(lambda x: net(x).last_hidden_state[:, 0], 32, IMAGENET)
    assert np.allclose(space.features(PICTURES, TEXTS), wanted.numpy(), atol=1e-5)


def test_a_folder_that_lacks_weights_is_refused_not_filled_at_random(tmp_path):
    from transformers import CLIPConfig, CLIPModel, ViTConfig, ViTModel

    vision = {**SMALL, "image_size": 32, "patch_size": 16}
    ViTModel(ViTConfig(**SMALL, image_size=32)).save_pretrained(tmp_path / "vit")
    with pytest.raises(CustomizationError, match="not a folder of CLIPVisionModelWithProjection"):
        open_space(f"clip={tmp_path / 'vit'}", Context(tmp_path))
    text = {**SMALL, "vocab_size": 20, "bos_token_id": 0, "eos_token_id": 1}
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision)).save_pretrained(tmp_path / "clip")
    with pytest.raises(CustomizationError, match="holds a clip"):
        open_space(f"dino={tmp_path / 'clip'}", Context(tmp_path))


# timm's names, which DINO, DINOv2, MoCo-v3 and supervised transformers are published with


@pytest.mark.parametrize(
    ("title", "loader", "size"),
    [
        ("timm vit_small_patch16_224.dino", "dino", 224),
        ("timm vit_small_patch14_dinov2.lvd142m", "dinov2", 224),
        ("timm vit_tiny_patch16_224", "vit", 224),
    ],
)
def test_timm_layouts_of_vision_transformers(tmp_path, title, loader, size):
    state = layout(title)
    torch.save(state, tmp_path / "weights.pth")
    net, side = load_vit(tmp_path / "weights.pth")
    kept = sum(value.numel() for name, value in state.items() if not name.startswith("head."))
    # Every weight but a classifier's has its place; of the second kind a mask token is added.
    inside = sum(v.numel() for name, v in net.state_dict().items() if not name.endswith("mask_token"))
    assert side == size and inside == kept
    space = open_space(f"{loader}={tmp_path / 'weights.pth'}", Context(tmp_path))
    assert space.dim == state["cls_token"].shape[2] and np.isfinite(space.features(PICTURES, TEXTS)).all()


def test_registers_are_read_and_what_is_not_understood_is_refused(tmp_path):
    state = layout("timm vit_small_patch14_dinov2.lvd142m", blocks=1)
    registers = 20 * torch.randn((1, 4, 384), generator=torch.Generator().manual_seed(2))
    torch.save({**state, "register_tokens": registers}, tmp_path / "registers.pth")
    net, _ = load_vit(tmp_path / "registers.pth")
    assert net.config.num_register_tokens == 4
    torch.save(state, tmp_path / "plain.pth")
    plain, _ = load_vit(tmp_path / "plain.pth")
    pixels = torch.randn((1, 3, 224, 224), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        both = [one(pixels).last_hidden_state[:, 0] for one in (net, plain)]
    assert (both[0] - both[1]).abs().max() > 1e-5
    torch.save({**state, "blocks.0.attn.q_norm.weight": torch.ones(64)}, tmp_path / "normed.pth")
    with pytest.raises(CustomizationError, match=r"unknown .*q_norm"):
        load_vit(tmp_path / "normed.pth")


# timm:NAME=path and open_clip:NAME=path


class Named(nn.Module):
    """Weights under given names, and an answer that hangs on all of them: what `create_model` gives, for a layout."""

    def __init__(self, state):
        super().__init__()
        for name, value in state.items():
            at, names = self, name.split(".")
            for inner in names[:-1]:
                if inner not in dict(at.named_children()):
                    at.add_module(inner, nn.Module())
                at = getattr(at, inner)
            at.register_buffer(names[-1], torch.zeros_like(value))

    def forward(self, pixels):
        total = sum(value.float().square().sum() for value in self.state_dict().values())
        return pixels.mean(dim=(2, 3)) * total


def stand_in(monkeypatch, library, net, **more):
    """A module of that name which builds the network, where the library itself is not installed."""
    module = types.ModuleType(library)
    module.create_model = lambda name, **asked: net
    module.__spec__ = importlib.machinery.ModuleSpec(library, None)
    for name, value in more.items():
        setattr(module, name, value)
    monkeypatch.setitem(sys.modules, library, module)


def resolved(given, model):
    """As timm does: what is given, else the architecture's."""
    return {"input_size": (3, 32, 32), "mean": IMAGENET[0], "std": IMAGENET[1], **given}


def answer(state, statistics, size=32):
    total = sum(value.square().sum() for value in state.values())
    return asked_of(lambda x: x.mean(dim=(2, 3)) * total, size, statistics).numpy()


def test_timm_layout_with_its_classifier(tmp_path, monkeypatch):
    """Published weights hold the classifier that features go without; a folder's config.json says the statistics."""
    state = layout("timm resnet18")
    kept = {name: value for name, value in state.items() if not name.startswith("fc.")}
    assert len(kept) < len(state)
    net = Named(kept)
    net.pretrained_cfg = {"classifier": "fc"}
    stand_in(monkeypatch, "timm", net, data=types.SimpleNamespace(resolve_data_config=resolved))
    torch.save(state, tmp_path / "resnet18.pth")
    space = open_space(f"timm:resnet18={tmp_path / 'resnet18.pth'}", Context(tmp_path))
    assert np.allclose(space.features(PICTURES, TEXTS), answer(kept, IMAGENET), rtol=1e-4)
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(CustomizationError, match="holds none of model"):
        open_space(f"timm:resnet18={folder}", Context(tmp_path))
    torch.save(state, folder / "pytorch_model.bin")
    halves = (0.5, 0.5, 0.5)
    told = {"architecture": "resnet18", "pretrained_cfg": {"mean": halves, "std": halves, "classifier": "fc"}}
    (folder / "config.json").write_text(json.dumps(told))
    space = open_space(f"timm:resnet18={folder}", Context(tmp_path))
    assert np.allclose(space.features(PICTURES, TEXTS), answer(kept, (halves, halves)), rtol=1e-4)


def test_open_clip_layout_and_its_statistics(tmp_path, monkeypatch):
    state = layout("open_clip ViT-B-32", blocks=1)
    state["text_projection"] = state["text_projection"][:, :8].clone()
    net = Named(state)
    net.visual.forward = lambda x: Named.forward(net.visual, x)
    net.visual.image_size = (32, 32)
    halves = (0.5, 0.5, 0.5)
    known = {"siglip": {"mean": halves, "std": halves}}
    stand_in(
        monkeypatch, "open_clip", net,
        list_pretrained_tags_by_model=lambda name: ["siglip"] if name == "SigLIP" else [],
        get_pretrained_cfg=lambda name, tag: known[tag],
    )  # fmt: skip
    seen = {name: value for name, value in state.items() if name.startswith("visual.")}
    torch.save({"state_dict": {f"module.{name}": v for name, v in state.items()}}, tmp_path / "epoch.pt")
    for name, statistics in (("ViT-B-32", CLIP), ("SigLIP", (halves, halves))):
        space = open_space(f"open_clip:{name}={tmp_path / 'epoch.pt'}", Context(tmp_path))
        assert np.allclose(space.features(PICTURES, TEXTS), answer(seen, statistics), rtol=1e-4)
    folder = tmp_path / "folder"
    folder.mkdir()
    torch.save(state, folder / "open_clip_pytorch_model.bin")
    told = {"model_cfg": {}, "preprocess_cfg": {"mean": CLIP[1], "std": halves}}
    (folder / "open_clip_config.json").write_text(json.dumps(told))
    space = open_space(f"open_clip:SigLIP={folder}", Context(tmp_path))
    assert np.allclose(space.features(PICTURES, TEXTS), answer(seen, (CLIP[1], halves)), rtol=1e-4)


def imported(name):
    # A torchvision that does not fit torch raises more than ImportError.
    try:
        return pytest.importorskip(name)
    except RuntimeError as error:
        pytest.skip(f"{name}: {error}")


@pytest.mark.parametrize("architecture", ["resnet18", "vit_tiny_patch16_224"])
def test_files_and_folders_that_timm_itself_writes(tmp_path, architecture):
    timm = imported("timm")
    whole = drawn(timm.create_model(architecture, pretrained=False))
    timm.models.save_for_hf(whole, tmp_path / "folder")
    torch.save(whole.state_dict(), tmp_path / "weights.pth")
    whole.reset_classifier(0)
    about = timm.data.resolve_data_config({}, model=whole)
    wanted = asked_of(whole, about["input_size"][1], (about["mean"], about["std"])).numpy()
    for where in ("folder", "weights.pth"):
        space = open_space(f"timm:{architecture}={tmp_path / where}", Context(tmp_path))
        assert np.allclose(space.features(PICTURES, TEXTS), wanted, atol=1e-4)
    with pytest.raises(CustomizationError, match="does not fit"):
        open_space(f"timm:resnet34={tmp_path / 'weights.pth'}", Context(tmp_path))
    with pytest.raises(CustomizationError, match="nknown model"):
        open_space(f"timm:no_such_net={tmp_path / 'weights.pth'}", Context(tmp_path))


def test_a_vision_transformer_of_timm_answers_as_ours(tmp_path):
    timm = imported("timm")
    for architecture, loader in (("vit_tiny_patch16_224", "vit"), ("vit_small_patch16_224.dino", "dino")):
        net = drawn(timm.create_model(architecture, pretrained=False, num_classes=0))
        torch.save(net.state_dict(), tmp_path / "weights.pth")
        ours, size = load_vit(tmp_path / "weights.pth")
        wanted = asked_of(net, size, IMAGENET)
        found = asked_of(lambda x, ours=ours: ours(x).last_hidden_state[:, 0], size, IMAGENET)
        assert torch.allclose(wanted, found, atol=1e-4), loader


def test_folders_that_open_clip_itself_writes(tmp_path):
    open_clip = imported("open_clip")
    from open_clip.push_to_hf_hub import save_for_hf

    net = drawn(open_clip.create_model("RN50"))
    writes = types.SimpleNamespace(save_pretrained=lambda folder: None)
    about = open_clip.get_model_config("RN50")
    save_for_hf(net, writes, about, tmp_path / "folder", safe_serialization=True)
    wanted = asked_of(net.visual, 224, CLIP).numpy()
    space = open_space(f"open_clip:RN50={tmp_path / 'folder'}", Context(tmp_path))
    assert space.dim == 1024 and np.allclose(space.features(PICTURES, TEXTS), wanted, atol=1e-4)
    with pytest.raises(CustomizationError, match="space open_clip:none"):
        open_space(f"open_clip:none={tmp_path / 'folder'}", Context(tmp_path))


def test_the_lists_are_those_of_the_libraries():
    timm, open_clip = imported("timm"), imported("open_clip")
    for line in LAYOUTS.read_text().splitlines():
        if not (found := re.match(r"\[(timm|open_clip) (\S+)\](?: \S*blocks=(\d+))?", line)):
            continue
        library, name, blocks = found[1], found[2], int(found[3] or 1)
        net = (timm if library == "timm" else open_clip).create_model(name, pretrained=None)
        written = {key: tuple(value.shape) for key, value in net.state_dict().items()}
        assert {k: tuple(v.shape) for k, v in layout(f"{library} {name}", blocks).items()} == written
