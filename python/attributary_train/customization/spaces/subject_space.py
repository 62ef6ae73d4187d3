"""The generator's own eye: what the U-Net's bottleneck makes of a slightly noised picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from attributary_train.customization.spaces.base import Features, Pictures, in_parts, resized
from attributary_train.customization.words import Words
from attributary_train.generators.latents import encode
from attributary_train.subject.checkpoint import load_autoencoder, load_subject
from attributary_train.subject.noise import noise_for

# Shares of the schedule at which the picture is noised.
_TIMES = (0.1, 0.3)
_CLIP_TOKENS = 77


class Bottleneck:
    """Activations of the middle block at two timesteps, with the empty prompt and the same noise for every picture.

    Features of a diffusion model in the manner of DIFT (Tang et al., NeurIPS 2023), whole maps rather than points:
    float32 [B, 2 x C x h x w].
    """

    name = "bottleneck"
    reads_text = False

    def __init__(self, subject: Path) -> None:
        self._model, self._autoencoder = load_subject(subject), load_autoencoder(subject)
        tokens = int(self._model.facts.get("recipe", {}).get("tokens", _CLIP_TOKENS))
        self._empty = Words(subject, tokens).states([""]).states
        self._size = int(self._autoencoder.config.sample_size)
        self._times = [int(share * self._model.timesteps) for share in _TIMES]
        self.identity = f"bottleneck-{self._model.weights}-{self._times}"
        blank = torch.zeros((1, *self._shape()))
        self.dim = self._read(blank).shape[1]

    def _shape(self) -> tuple[int, int, int]:
        config = self._model.unet.config
        return config.in_channels, config.sample_size, config.sample_size

    def features(self, pictures: Pictures, texts: Sequence[str]) -> Features:
        """Rows of activations, centred over nothing: the cosine is taken of them as they are."""
        return in_parts(self._part, pictures, texts, 64)

    def _part(self, pictures: Pictures, texts: Sequence[str]) -> Features:
        return self._read(encode(self._autoencoder, resized(pictures, self._size))).numpy()

    @torch.inference_mode()
    def _read(self, latents: Tensor) -> Tensor:
        seen: list[Tensor] = []
        hook = self._model.unet.mid_block.register_forward_hook(
            lambda module, given, answer: seen.append(answer)
        )
        try:
            for time in self._times:
                noise = torch.from_numpy(noise_for(b"bottleneck", time, self._shape())).expand_as(latents)
                steps = torch.full((len(latents),), time)
                self._model.predict(latents, noise, steps, self._empty.expand(len(latents), -1, -1))
        finally:
            hook.remove()
        return torch.cat([part.flatten(1) for part in seen], dim=1)
