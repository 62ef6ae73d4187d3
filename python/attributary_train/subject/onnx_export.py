"""The reference model as ONNX files, for samplers without torch: `attributary serve --generator`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from attributary_train.errors import SubjectError
from attributary_train.files import write_text
from attributary_train.subject.checkpoint import load_autoencoder, load_subject, recipe_of
from attributary_train.towers.graph import to_onnx
from attributary_train.towers.text import MiniLM, minilm_directory

_DIM = 384


class _Text(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.model = MiniLM()

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        return self.model.states(ids, mask)


class _Denoiser(nn.Module):
    def __init__(self, unet: Any) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, latents: Tensor, timestep: Tensor, states: Tensor) -> Tensor:
        answer: Tensor = self.unet(latents, timestep, encoder_hidden_states=states, return_dict=False)[0]
        return answer


class _Decoder(nn.Module):
    """Scaled latents to RGB in [0, 255], as `generators.latents.decode` makes it before it rounds."""

    def __init__(self, autoencoder: Any) -> None:
        super().__init__()
        self.autoencoder = autoencoder
        self.scale = float(autoencoder.config.scaling_factor)
        self.shift = float(autoencoder.config.get("shift_factor") or 0.0)

    def forward(self, latents: Tensor) -> Tensor:
        pixels: Tensor = self.autoencoder.decode(latents / self.scale + self.shift, return_dict=False)[0]
        return (pixels.clamp(-1, 1) + 1) * 127.5


def export_generator(subject: Path, out: Path) -> dict[str, Any]:
    """Write text.onnx, denoiser.onnx, decoder.onnx, tokenizer.json and, last, generator.json; return what that holds.

    Raises `SubjectError` for an adopted checkpoint, whose text encoder and sampler are its own.
    """
    model = load_subject(subject)
    if model.text is not None or model.folder is not None:
        raise SubjectError(
            str(subject), "only models that were trained here are exported: MiniLM reads their prompts"
        )
    tokens = recipe_of(model).tokens
    config = model.unet.config
    shape = (int(config.in_channels), int(config.sample_size), int(config.sample_size))
    out.mkdir(parents=True, exist_ok=True)
    (out / "generator.json").unlink(missing_ok=True)
    ids = torch.ones(2, tokens, dtype=torch.int64)
    latents, states = torch.zeros(2, *shape), torch.zeros(2, tokens, _DIM)
    rows = {0: "B"}
    to_onnx(_Text(), (ids, ids), {"ids": rows, "mask": rows}, "states", out / "text.onnx")
    to_onnx(
        _Denoiser(model.unet), (latents, torch.full((2,), 500), states),
        {"latents": rows, "timestep": rows, "states": rows}, "noise", out / "denoiser.onnx",
    )  # fmt: skip
    to_onnx(
        _Decoder(load_autoencoder(subject)), (latents,), {"latents": rows}, "pixels", out / "decoder.onnx"
    )
    shutil.copyfile(minilm_directory() / "tokenizer.json", out / "tokenizer.json")
    facts = {
        "schema_version": 1,
        "weights": model.weights,
        "tokens": tokens,
        "shape": list(shape),
        # Signal of each timestep of training, and of a picture without noise.
        "alphas": model.scheduler.alphas_cumprod.double().tolist(),
        "last_alpha": float(model.scheduler.final_alpha_cumprod),
        "offset": int(model.scheduler.config.steps_offset),
    }
    write_text(out / "generator.json", json.dumps(facts) + "\n", SubjectError)
    return facts
