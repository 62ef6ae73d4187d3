"""The autoencoder of the subject model: diffusers' AutoencoderKL, trained on the corpus."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from attributary_train.subject.errors import SubjectError
from attributary_train.subject.recipe import Recipe

STATE = "training-state.pt"


def new_autoencoder(recipe: Recipe) -> AutoencoderKL:
    """An untrained autoencoder of the recipe's shape."""
    part = recipe.autoencoder
    levels = len(part.widths)
    factor = 2 ** (levels - 1)
    if recipe.image_size != recipe.latent_size * factor:
        raise SubjectError(
            "recipe.autoencoder.widths",
            f"{levels} levels make {recipe.image_size / factor:g} of {recipe.image_size}, not {recipe.latent_size}",
        )
    if part.latent_channels != recipe.latent_channels:
        raise SubjectError(
            "recipe.latent_channels",
            f"{recipe.latent_channels}, but the autoencoder has {part.latent_channels}",
        )
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=part.widths,
        layers_per_block=part.layers,
        latent_channels=part.latent_channels,
        norm_num_groups=8,
        sample_size=recipe.image_size,
    )


def to_pixels(batch: npt.NDArray[np.uint8]) -> Tensor:
    """uint8 [B, S, S, 3] -> float32 [B, 3, S, S] in [-1, 1]."""
    return torch.from_numpy(np.array(batch)).permute(0, 3, 1, 2).float() / 127.5 - 1.0


def _edges(x: Tensor) -> tuple[Tensor, Tensor]:
    return x[..., 1:] - x[..., :-1], x[..., 1:, :] - x[..., :-1, :]


def _loss(model: AutoencoderKL, pixels: Tensor, kl_weight: float) -> tuple[Tensor, Tensor]:
    posterior = model.encode(pixels).latent_dist
    restored = model.decode(posterior.sample()).sample
    # Drawings live by their outlines: differences of neighbours keep them sharp where squared error alone would blur.
    sharp = sum(F.l1_loss(a, b) for a, b in zip(_edges(restored.float()), _edges(pixels), strict=True))
    square = F.mse_loss(restored.float(), pixels)
    return square + 0.5 * sharp + kl_weight * posterior.kl().mean(), square


def train_autoencoder(
    recipe: Recipe,
    pictures: npt.NDArray[np.uint8],
    out: Path,
    *,
    save_every: int = 500,
    log: Callable[[str], None] = print,
) -> AutoencoderKL:
    """Train on uint8 [N, S, S, 3]; resumes from `out` after an interruption; saves in diffusers' format.

    The scaling factor is set so that latents have unit deviation over the corpus, as diffusers expects.
    """
    part = recipe.autoencoder
    torch.manual_seed(part.seed)
    model = new_autoencoder(recipe).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = torch.optim.AdamW(model.parameters(), part.learning_rate, weight_decay=0.0, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, part.learning_rate, total_steps=part.steps, pct_start=0.05
    )
    start, curve = 0, []
    out.mkdir(parents=True, exist_ok=True)
    if (out / STATE).exists():
        state = torch.load(out / STATE, weights_only=True)
        if state["recipe"] != recipe.digest():
            raise SubjectError(
                str(out / STATE), "belongs to another recipe; remove it or choose another folder"
            )
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        schedule.load_state_dict(state["schedule"])
        start, curve = state["step"], state["curve"]
    model.train()
    began = time.monotonic()
    for step in range(start, part.steps):
        # Drawn by step number, so that a resumed run sees what an uninterrupted one would.
        rows = np.random.default_rng((part.seed, step)).integers(0, len(pictures), part.batch)
        torch.manual_seed(part.seed * 1_000_003 + step)
        with torch.autocast("cpu", torch.bfloat16, enabled=part.bf16):
            loss, square = _loss(model, to_pixels(pictures[np.sort(rows)]), part.kl_weight)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        schedule.step()
        if step % 50 == 0 or step == part.steps - 1:
            curve.append([step, loss.item(), square.item()])
            spent = time.monotonic() - began
            log(f"autoencoder step {step}: loss {loss.item():.4f}, square {square.item():.5f}, {spent:.0f} s")
        if (step + 1) % save_every == 0 and step + 1 < part.steps:
            _save_state(out, recipe, model, optimiser, schedule, step + 1, curve)
    # Checkpoints hold half precision: rounding now makes the latents of this process those of every later one.
    model.eval().half().float()
    model.register_to_config(
        scaling_factor=1.0 / float(_latents(model, pictures[:: max(1, len(pictures) // 2000)]).std())
    )
    model.save_pretrained(out)
    (out / "curve.json").write_text(json.dumps(curve))
    (out / STATE).unlink(missing_ok=True)
    return model


def _save_state(
    out: Path,
    recipe: Recipe,
    model: AutoencoderKL,
    optimiser: Any,
    schedule: Any,
    step: int,
    curve: list[list[float]],
) -> None:
    state = {
        "recipe": recipe.digest(),
        "model": model.state_dict(),
        "optimiser": optimiser.state_dict(),
        "schedule": schedule.state_dict(),
        "step": step,
        "curve": curve,
    }
    torch.save(state, out / (STATE + ".part"))
    (out / (STATE + ".part")).replace(out / STATE)


@torch.inference_mode()
def _latents(model: AutoencoderKL, pictures: npt.NDArray[np.uint8], batch: int = 64) -> Tensor:
    parts = [
        model.encode(to_pixels(pictures[at : at + batch])).latent_dist.mean
        for at in range(0, len(pictures), batch)
    ]
    return torch.cat(parts)


def encode(model: AutoencoderKL, pictures: npt.NDArray[np.uint8]) -> Tensor:
    """uint8 [N, S, S, 3] -> scaled latents float32 [N, C, h, w]: the posterior's mean, so that they are repeatable."""
    return _latents(model, pictures) * model.config.scaling_factor


@torch.inference_mode()
def decode(model: AutoencoderKL, latents: Tensor, batch: int = 64) -> npt.NDArray[np.uint8]:
    """Scaled latents float32 [N, C, h, w] -> uint8 [N, S, S, 3]."""
    parts = []
    for at in range(0, len(latents), batch):
        pixels = model.decode(latents[at : at + batch] / model.config.scaling_factor).sample
        parts.append(((pixels.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1))
    return torch.cat(parts).numpy()
