"""The generator's own denoiser as an image tower: what its middle block sees, without a prompt and with it."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn

from attributary_train.errors import StudentError
from attributary_train.subject.model import SubjectModel
from attributary_train.subject.noise import noise_for, noise_key

TIMESTEPS = (100, 300)


class GeneratorTower(nn.Module):
    """uint8 [B, S, S, 3] and token states [B, T, D] -> float32 [B, 2 F].

    The first F are asked with the empty prompt, the last F with the states that are given; each F is the middle block's
    output at the timesteps in turn, under one noise that all pictures share. Modules are the model's own: no copy.
    Raises `StudentError` for a denoiser that is no U-Net of token states alone.
    """

    times: Tensor
    kept: Tensor
    added: Tensor
    empty: Tensor

    def __init__(
        self,
        model: SubjectModel,
        autoencoder: AutoencoderKL,
        empty: Tensor,
        timesteps: tuple[int, ...] = TIMESTEPS,
    ) -> None:
        super().__init__()
        unet = model.unet
        if not isinstance(unet, UNet2DConditionModel) or model.layout is not None or model.text is not None:
            raise StudentError("subject", "has no U-Net of MiniLM's token states; this student is not for it")
        if not timesteps or not all(0 <= step < model.timesteps for step in timesteps):
            raise StudentError("timesteps", f"{timesteps}; must be between 0 and {model.timesteps - 1}")
        self.encoder, self.quant = autoencoder.encoder, autoencoder.quant_conv or nn.Identity()
        self.conv_in, self.down, self.mid = unet.conv_in, unet.down_blocks, unet.mid_block
        self.factor = float(autoencoder.config.scaling_factor)
        self.shift = float(autoencoder.config.get("shift_factor") or 0.0)
        self.image_size = int(autoencoder.config.sample_size)
        side = int(unet.config.sample_size)
        shape = (int(unet.config.in_channels), side, side)
        at = torch.tensor(timesteps)
        noise = torch.stack(
            [torch.from_numpy(noise_for(noise_key(0, "middle block"), step, shape)) for step in timesteps]
        )
        with torch.no_grad():
            embedded = unet.time_embedding(unet.time_proj(model.schedule.values(at)).float())
            # Noising is linear in the latents: what they are multiplied by, and what is added.
            kept = model.noised(torch.ones_like(noise), torch.zeros_like(noise), at)
            added = model.noised(torch.zeros_like(noise), noise, at)
        self.register_buffer("times", embedded.clone())
        self.register_buffer("kept", kept[:, :1, :1, :1].clone())
        self.register_buffer("added", added.clone())
        self.register_buffer("empty", empty.float().clone())

    def latents(self, pixels: Tensor) -> Tensor:
        """uint8 [B, S, S, 3] -> scaled latents float32 [B, C, h, w], the posterior's mean."""
        x = pixels.to(torch.float32).permute(0, 3, 1, 2) / 127.5 - 1.0
        mean: Tensor = self.quant(self.encoder(x)).chunk(2, dim=1)[0]
        return (mean - self.shift) * self.factor

    def features(self, latents: Tensor, states: Tensor) -> Tensor:
        """Latents [B, C, h, w] under the prompts of states [B, T, D] -> float32 [B, F]."""
        steps, rows = len(self.times), latents.shape[0]
        # Every timestep in one pass: a denoiser this small is bound by its number of calls.
        noisy = latents[:, None] * self.kept + self.added
        x = self.conv_in(noisy.flatten(0, 1))
        time = self.times.expand(rows, -1, -1).flatten(0, 1)
        words = states[:, None].expand(-1, steps, -1, -1).flatten(0, 1)
        for block in self.down:
            x, _ = block(hidden_states=x, temb=time, **_arguments(block, words))
        out: Tensor = self.mid(x, time, **_arguments(self.mid, words))
        return out.reshape(rows, -1)

    def without(self, latents: Tensor) -> Tensor:
        """The same under the empty prompt."""
        return self.features(latents, self.empty.expand(latents.shape[0], -1, -1))

    def forward(self, pixels: Tensor, states: Tensor) -> Tensor:
        """Features without the prompt, then with it; see `asked`."""
        return self.asked(self.latents(pixels), states)

    def asked(self, latents: Tensor, states: Tensor) -> Tensor:
        """Features of latents [B, C, h, w] without the prompt, then with it."""
        empty = self.empty.expand(latents.shape[0], -1, -1)
        twice = torch.stack([latents, latents], dim=1).flatten(0, 1)
        both = torch.stack([empty, states], dim=1).flatten(0, 1)
        return self.features(twice, both).reshape(latents.shape[0], -1)


def _arguments(block: Any, states: Tensor) -> dict[str, Tensor]:
    return {"encoder_hidden_states": states} if getattr(block, "has_cross_attention", False) else {}


class GeneratorStudent(nn.Module):
    """uint8 [B, S, S, 3], int64 ids and mask [B, T] -> float32 [B, D]: what is exported and served.

    The denoiser also reads the places that a prompt leaves empty: prompts are filled up to its number of tokens.
    """

    text_tower: Any
    tower: GeneratorTower

    def __init__(
        self, name: str, tower: GeneratorTower, text_tower: nn.Module, head: nn.Module, dim: int
    ) -> None:
        super().__init__()
        self.name, self.dim = name, dim
        self.image_size, self.max_tokens = tower.image_size, int(tower.empty.shape[0])
        self.tower, self.text_tower, self.head = tower, text_tower, head

    def read(self, token_ids: Tensor, token_mask: Tensor) -> tuple[Tensor, Tensor]:
        """States [B, T, D] of all places of the prompts and their mask float32 [B, T]; T is the most there can be."""
        places = torch.zeros((1, self.max_tokens), dtype=torch.int64).expand(token_ids.shape[0], -1)
        ids = torch.cat([token_ids, places], dim=1)[:, : self.max_tokens]
        mask = torch.cat([token_mask, places], dim=1)[:, : self.max_tokens]
        some = mask.amax(dim=1)[:, None, None] > 0
        states = torch.where(some, self.text_tower.states(ids, mask), self.tower.empty)
        return states, mask.to(torch.float32)

    def placed(self, latents: Tensor, states: Tensor, mask: Tensor) -> Tensor:
        """Embeddings [B, dim] of scaled latents under what `read` gives."""
        out: Tensor = self.head(self.tower.asked(latents, states), states, mask)
        return out

    def forward(self, pixels: Tensor, token_ids: Tensor, token_mask: Tensor) -> Tensor:
        """Embed a batch; rows whose mask is all zero have no prompt."""
        states, mask = self.read(token_ids, token_mask)
        return self.placed(self.tower.latents(pixels), states, mask)
