"""Noise levels: of models that count them by betas, and of flow matching. A timestep counts from the cleanest level."""

from __future__ import annotations

from typing import Any, Protocol

from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor

from attributary_train.errors import SubjectError


class Schedule(Protocol):
    """Latents and noise float32 [B, C, h, w]; timesteps int64 [B], 0 the cleanest and `timesteps` - 1 the noisiest."""

    @property
    def timesteps(self) -> int:
        """How many levels there are."""

    def values(self, timesteps: Tensor) -> Tensor:
        """What the denoiser is told of a level, [B]."""

    def noised(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Latents at their levels."""

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """What the denoiser is asked for."""


class Betas:
    """x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) noise; asked for the noise or for v (Salimans and Ho, 2022)."""

    def __init__(self, scheduler: Any) -> None:
        self.scheduler = scheduler

    @property
    def timesteps(self) -> int:
        """Length of the training schedule."""
        return int(self.scheduler.config.num_train_timesteps)

    def values(self, timesteps: Tensor) -> Tensor:
        """The level's number."""
        return timesteps

    def noised(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """See the class."""
        signal = self._signal(latents, timesteps)
        return signal.sqrt() * latents + (1.0 - signal).sqrt() * noise

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """By the scheduler's prediction type."""
        kind = self.scheduler.config.prediction_type
        if kind == "epsilon":
            return noise
        if kind == "v_prediction":
            signal = self._signal(latents, timesteps)
            return signal.sqrt() * noise - (1.0 - signal).sqrt() * latents
        raise SubjectError("scheduler.prediction_type", f"{kind!r}; epsilon or v_prediction are understood")

    def _signal(self, latents: Tensor, timesteps: Tensor) -> Tensor:
        signal: Tensor = self.scheduler.alphas_cumprod.to(latents)[timesteps].view(-1, 1, 1, 1)
        return signal


class Flow:
    """x_s = (1 - s) x_0 + s noise along straight lines; asked for noise - x_0 (Lipman et al., 2023).

    Levels and their s are the scheduler's own, its shift included.
    """

    def __init__(self, scheduler: FlowMatchEulerDiscreteScheduler) -> None:
        self.scheduler = scheduler
        # As it was trained with, from the noisiest; a sampler that set other steps has a copy of its own.
        self._values, self._sigmas = scheduler.timesteps.flip(0), scheduler.sigmas[: self.timesteps].flip(0)

    @property
    def timesteps(self) -> int:
        """Length of the training schedule."""
        return int(self.scheduler.config.num_train_timesteps)

    def values(self, timesteps: Tensor) -> Tensor:
        """1,000 s, float32."""
        values: Tensor = self._values.to(timesteps.device)[timesteps]
        return values

    def sigmas(self, latents: Tensor, timesteps: Tensor) -> Tensor:
        """s of each row, shaped to multiply latents."""
        sigmas: Tensor = self._sigmas.to(latents)[timesteps].view(-1, 1, 1, 1)
        return sigmas

    def noised(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """See the class."""
        sigma = self.sigmas(latents, timesteps)
        return (1.0 - sigma) * latents + sigma * noise

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """The line's direction."""
        return noise - latents


def schedule_of(scheduler: Any) -> Betas | Flow:
    """The schedule that a scheduler of diffusers stands for."""
    return Flow(scheduler) if isinstance(scheduler, FlowMatchEulerDiscreteScheduler) else Betas(scheduler)
