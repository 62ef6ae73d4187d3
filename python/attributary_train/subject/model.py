"""The subject model in memory: U-Net and noise schedule, with the one loss that training and attribution share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch import Tensor

from attributary_train.errors import SubjectError
from attributary_train.generators.conditions import Conditions, Layout
from attributary_train.generators.counting import count_rows
from attributary_train.generators.families import STABLE
from attributary_train.generators.family import Family
from attributary_train.generators.schedules import Betas, Flow, schedule_of
from attributary_train.subject.recipe import ADOPTED, Recipe
from attributary_train.subject.text import token_states

if TYPE_CHECKING:
    from attributary_train.generators.reader import PipelineText
    from attributary_train.subject.own_text import OwnText


def new_unet(recipe: Recipe) -> UNet2DConditionModel:
    """An untrained U-Net of the recipe's shape; its weights come from torch's global seed.

    Raises `SubjectError` for the recipe of an adopted checkpoint, which does not say how to train it again.
    """
    if recipe.name == ADOPTED:
        raise SubjectError(
            "recipe",
            "is that of an adopted checkpoint: how it was trained is not known, so it cannot be retrained",
        )
    down = tuple("CrossAttnDownBlock2D" if on else "DownBlock2D" for on in recipe.attention)
    up = tuple("CrossAttnUpBlock2D" if on else "UpBlock2D" for on in reversed(recipe.attention))
    return UNet2DConditionModel(
        sample_size=recipe.latent_size,
        in_channels=recipe.latent_channels,
        out_channels=recipe.latent_channels,
        block_out_channels=recipe.widths,
        layers_per_block=recipe.layers,
        down_block_types=down,
        up_block_types=up,
        cross_attention_dim=recipe.text_dim,
        attention_head_dim=recipe.heads,
        norm_num_groups=8,
    )


def new_scheduler(recipe: Recipe) -> DDIMScheduler:
    """The noise schedule; sampling is deterministic with it."""
    return DDIMScheduler(
        num_train_timesteps=recipe.timesteps,
        beta_schedule=recipe.beta_schedule,
        beta_start=recipe.beta_start,
        beta_end=recipe.beta_end,
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="epsilon",
    )


@dataclass
class SubjectModel:
    """A text-conditioned denoiser. `weights` is the SHA-256 of the denoiser; `facts` is the manifest it came with;
    `text` is how an adopted checkpoint reads prompts, None where MiniLM does. `family` says how it is called and
    noised; `layout` how its conditions are packed, None where they are token states alone; `folder` is where its
    pipeline lies, for those that are sampled by it."""

    unet: UNet2DConditionModel
    scheduler: DDIMScheduler
    weights: str
    facts: dict[str, Any]
    text: OwnText | PipelineText | None = None
    family: Family = STABLE
    layout: Layout | None = None
    folder: Path | None = None

    def token_states(self, prompts: Sequence[str], tokens: int) -> Tensor:
        """Prompts -> float32 [B, T, D], by the encoder that the U-Net is conditioned on; `tokens` is MiniLM's T."""
        return token_states(prompts, tokens) if self.text is None else self.text(prompts)

    @cached_property
    def schedule(self) -> Betas | Flow:
        """Its noise levels."""
        return schedule_of(self.scheduler)

    @property
    def timesteps(self) -> int:
        """Length of the training schedule."""
        return self.schedule.timesteps

    def noised(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Latents at noise levels; latents (of any precision), noise float32 [B, C, h, w]; timesteps int64 [B]."""
        return self.schedule.noised(latents.float(), noise, timesteps)

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """What the denoiser is asked for."""
        return self.family.loss_target(self.schedule, latents.float(), noise, timesteps)

    def answers(self, noisy: Tensor, timesteps: Tensor, text: Tensor, unet: Any = None) -> Tensor:
        """What the denoiser says of noised latents, [B, C, h, w]; `unet`: another one of the same shape."""
        count_rows(len(noisy))
        conditions = Conditions(text.float()) if self.layout is None else self.layout.unpack(text.float())
        return self.family.call(
            self.unet if unet is None else unet, noisy, self.schedule.values(timesteps), conditions
        )

    def predict(
        self, latents: Tensor, noise: Tensor, timesteps: Tensor, text: Tensor, unet: Any = None
    ) -> Tensor:
        """The denoiser's answer as the loss compares it with `target`, [B, C, h, w]."""
        noisy = self.noised(latents, noise, timesteps)
        answer = self.answers(noisy, timesteps, text, unet)
        return self.family.loss_answer(self.schedule, answer, noisy, timesteps)

    def losses(self, latents: Tensor, noise: Tensor, timesteps: Tensor, text: Tensor) -> Tensor:
        """Denoising loss of every row, float32 [B]: squared error, mean over channels and positions (Ho et al., 2020,
        eq. 14).
        """
        error = self.predict(latents, noise, timesteps, text).float() - self.target(latents, noise, timesteps)
        return error.square().mean(dim=(1, 2, 3))


def loss_timesteps(model: SubjectModel, count: int, span: float = 1.0) -> list[int]:
    """`count` evenly spaced timesteps, each in the middle of its stretch, of the first `span` of the schedule."""
    total = int(model.timesteps * span)
    if not 1 <= count <= total:
        raise SubjectError("timesteps", f"{count}; must be between 1 and {total}")
    width = model.timesteps * span / count
    return [int(width * (at + 0.5)) for at in range(count)]


def require_finite(values: Tensor, what: str) -> Tensor:
    """Raise `SubjectError` naming `what` if a value is NaN or infinite."""
    if not torch.isfinite(values).all():
        raise SubjectError(
            what, f"{int((~torch.isfinite(values)).sum())} of {values.numel()} values are not finite"
        )
    return values
