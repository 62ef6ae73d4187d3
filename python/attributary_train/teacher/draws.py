"""Noise draws: what a loss or a gradient is averaged over."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from attributary_train.subject.data import SubjectData
from attributary_train.subject.model import SubjectModel, loss_timesteps
from attributary_train.subject.noise import noise_for, noise_grid, noise_key


@dataclass(frozen=True)
class LossGrid:
    """The noised training set at evenly spaced timesteps: noise float32 [N, T, C, h, w], timesteps int64 [T].

    The noise of a row depends on (item, caption, timestep, `draw`) alone.
    """

    noise: Tensor
    timesteps: Tensor

    @classmethod
    def of(
        cls,
        model: SubjectModel,
        data: SubjectData,
        count: int,
        draw: int = 0,
        *,
        mirrored: bool = False,
        shared: bool = False,
    ) -> LossGrid:
        """The grid of `count` timesteps; `draw` picks an independent one (the teacher against itself).

        `mirrored`: each noise is met by its mirror image in a second column, `count` columns later. What is odd in the
        noise then cancels in a mean: half as many timesteps twice cost the same and agree better (docs/teacher.md).
        `shared`: all items meet the same noise at a timestep, so that what it adds is no difference between them.
        """
        steps = loss_timesteps(model, count)
        keys = [noise_key(0, "every item")] if shared else item_keys(data)
        noise, times = noise_grid(keys, steps, data.latents.shape[1:], draw), torch.tensor(steps)
        noise = noise.expand(len(data), *noise.shape[1:])
        if mirrored:
            noise, times = torch.cat([noise, -noise], dim=1), torch.cat([times, times])
        return cls(noise, times)

    def to(self, device: str) -> LossGrid:
        """The same grid on a device."""
        return LossGrid(self.noise.to(device), self.timesteps.to(device))


# Draw numbers of pseudo-targets start here, far from those of any loss.
_TARGETS = 1 << 31


def target_noise(keys: Sequence[bytes], timestep: int, shape: Sequence[int], seed: int) -> Tensor:
    """Standard normal noise of a batch's pseudo-targets, float32 [B, *shape]; `keys` are `noise_key` of the items.

    It belongs to (item, caption, timestep, seed) as the noise of losses does, and shares no stream with it.
    """
    return noise_grid(keys, [timestep], shape, _TARGETS + seed)[:, 0]


def item_keys(data: SubjectData) -> list[bytes]:
    """`noise_key` of every item."""
    return [noise_key(int(i), p) for i, p in zip(data.ids, data.prompts, strict=True)]


def query_draws(
    name: str, prompt: str, shape: Sequence[int], total: int, count: int, draw: int = 0, batch: int = 128
) -> Iterator[tuple[Tensor, Tensor]]:
    """`count` draws (noise [B, *shape], timesteps [B]) for one query, in batches.

    Timesteps are stratified: one uniform pick from each of `count / 2` equal stretches of the schedule of length
    `total`. Each is met with a noise and with its mirror image: first-order terms in the noise cancel.
    """
    key = noise_key(0, f"{name}\t{prompt}")
    half = (count + 1) // 2
    stream = np.random.default_rng(int.from_bytes(key, "little") ^ draw)
    picks = ((np.arange(half) + stream.random(half)) * (total / half)).astype(np.int64).clip(0, total - 1)
    per = max(1, batch // 2)
    for at in range(0, half, per):
        steps = picks[at : at + per]
        noise = np.stack(
            [noise_for(key, int(step), shape, draw * 1_000_003 + at + row) for row, step in enumerate(steps)]
        )
        both = torch.from_numpy(np.concatenate([noise, -noise]))
        yield both, torch.from_numpy(np.concatenate([steps, steps]))
