"""Pictures to latents and back by any autoencoder of diffusers that a family has."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

# 64 pictures of 64 pixels fit anywhere; larger ones come in passes of about as many pixels.
_MOST_PIXELS = 64 * 64**2


def factor_of(autoencoder: Any) -> int:
    """Pixels of a latent's side."""
    config = autoencoder.config
    widths = config.get("block_out_channels") or config["encoder_block_out_channels"]
    return int(2 ** (len(widths) - 1))


def _shift(autoencoder: Any) -> float:
    return float(autoencoder.config.get("shift_factor") or 0.0)


def pixels_of(batch: npt.NDArray[np.uint8]) -> Tensor:
    """uint8 [B, S, S, 3] -> float32 [B, 3, S, S] in [-1, 1]."""
    return torch.from_numpy(np.array(batch)).permute(0, 3, 1, 2).float() / 127.5 - 1.0


@torch.inference_mode()
def means(autoencoder: Any, pictures: npt.NDArray[np.uint8]) -> Tensor:
    """uint8 [N, S, S, 3] -> float32 [N, C, h, w]: the posterior's mean, so that it is repeatable, neither shifted nor
    scaled."""
    batch = max(1, min(64, _MOST_PIXELS // pictures.shape[1] ** 2))
    parts = []
    for at in range(0, len(pictures), batch):
        found = autoencoder.encode(pixels_of(pictures[at : at + batch]).to(autoencoder.device))
        parts.append((found.latent_dist.mean if hasattr(found, "latent_dist") else found.latent).cpu())
    return torch.cat(parts)


def encode(autoencoder: Any, pictures: npt.NDArray[np.uint8]) -> Tensor:
    """uint8 [N, S, S, 3] -> scaled latents float32 [N, C, h, w] as the denoiser takes them; repeatable."""
    return (means(autoencoder, pictures) - _shift(autoencoder)) * float(autoencoder.config.scaling_factor)


@torch.inference_mode()
def decode(autoencoder: Any, latents: Tensor) -> npt.NDArray[np.uint8]:
    """The inverse: scaled latents float32 [N, C, h, w] -> uint8 [N, S, S, 3]."""
    side = latents.shape[-1] * factor_of(autoencoder)
    batch = max(1, min(64, _MOST_PIXELS // side**2))
    parts = []
    for at in range(0, len(latents), batch):
        some = latents[at : at + batch].to(autoencoder.device) / float(autoencoder.config.scaling_factor)
        pixels = autoencoder.decode(some + _shift(autoencoder)).sample
        parts.append(((pixels.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).cpu())
    return torch.cat(parts).numpy()


def as_tokens(latents: Tensor) -> Tensor:
    """Two by two latents as one token: [B, C, h, w] -> [B, h w / 4, 4 C], as Flux' pipeline keeps them."""
    rows, channels, height, width = latents.shape
    cut = latents.view(rows, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return cut.reshape(rows, height * width // 4, channels * 4)


def from_tokens(tokens: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """The inverse of `as_tokens`: [B, h w / 4, 4 C] -> [B, C, h, w] with `shape` (C, h, w)."""
    channels, height, width = shape
    apart = tokens.view(len(tokens), height // 2, width // 2, channels, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return apart.reshape(len(tokens), channels, height, width)
