"""One family of generators: everything that tells it from the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from .conditions import Conditions
from .schedules import Betas, Flow

# (denoiser, noised latents [B, C, h, w], what it is told of the level [B], conditions) -> its answer [B, C, h, w].
Call = Callable[[nn.Module, Tensor, Tensor, Conditions], Tensor]
# (pipeline with text encoders, prompts) -> conditions of each.
Read = Callable[[Any, Sequence[str]], Conditions]


@dataclass(frozen=True)
class Family:
    """What is known of a family.

    pipelines: names of diffusers' classes in model_index.json; part: folder of the denoiser; model: its class;
    autoencoder: class of its autoencoder; flow: whether it is trained by flow matching; text_kv: endings of the modules
    that make keys and values of the text; preconditioned: the loss is that of the clean latents the answer stands for,
    as the training script's default has it; distilled: guidance is an input of the denoiser, not a second pass.
    """

    name: str
    pipelines: tuple[str, ...]
    part: str
    model: str
    call: Call
    read: Read
    text_kv: tuple[str, ...]
    flow: bool = False
    autoencoder: str = "AutoencoderKL"
    preconditioned: bool = False
    distilled: bool = False

    def loss_answer(self, schedule: Betas | Flow, answer: Tensor, noisy: Tensor, timesteps: Tensor) -> Tensor:
        """The answer as the loss compares it."""
        if not self.preconditioned:
            return answer
        assert isinstance(schedule, Flow)
        return noisy - schedule.sigmas(noisy, timesteps) * answer

    def loss_target(
        self, schedule: Betas | Flow, latents: Tensor, noise: Tensor, timesteps: Tensor
    ) -> Tensor:
        """What it is compared with."""
        return latents if self.preconditioned else schedule.target(latents, noise, timesteps)
