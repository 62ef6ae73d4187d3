"""Noise draws: what a loss or a gradient is averaged over."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attributary_train.subject.data import SubjectData
from attributary_train.subject.model import SubjectModel, loss_timesteps
from attributary_train.subject.noise import noise_for, noise_grid, noise_key

# A grid above this is not kept: at COCO's size it is gigabytes in every worker, and drawing costs less than a pass.
MOST_KEPT_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True)
class DrawnNoise:
    """Noise float32 [N, T, C, h, w] that is drawn where it is indexed; `columns` are (timestep, sign)."""

    keys: list[bytes]
    columns: list[tuple[int, float]]
    shape: tuple[int, ...]
    draw: int
    device: str = "cpu"

    @property
    def nbytes(self) -> int:
        """Bytes of all of it."""
        return 4 * len(self.keys) * len(self.columns) * math.prod(self.shape)

    def to(self, device: str) -> DrawnNoise:
        """The same, handed out on a device."""
        return replace(self, device=device)

    def __getitem__(self, at: tuple[Any, Any]) -> Any:
        """As a tensor is indexed: [rows, column] or [rows, columns] in pairs give noise; [:, columns] some columns."""
        rows, columns = at
        if isinstance(rows, slice) and rows == slice(None) and isinstance(columns, list):
            return replace(self, columns=[self.columns[column] for column in columns])
        if isinstance(rows, int):
            return self._of(rows, int(columns)).to(self.device)
        if isinstance(rows, slice):
            rows = range(len(self.keys))[rows]
        pairs = np.broadcast_arrays(np.asarray(_host(rows)), np.asarray(_host(columns)))
        return torch.stack([self._of(int(row), int(column)) for row, column in zip(*pairs, strict=True)]).to(
            self.device
        )

    def _of(self, row: int, column: int) -> Tensor:
        step, sign = self.columns[column]
        return torch.from_numpy(noise_for(self.keys[row], step, self.shape, self.draw)) * sign


def _host(index: Any) -> Any:
    return index.cpu().numpy() if isinstance(index, Tensor) else index


@dataclass(frozen=True)
class LossGrid:
    """The noised training set at evenly spaced timesteps: noise float32 [N, T, C, h, w], timesteps int64 [T].

    The noise of a row depends on (item, caption, timestep, `draw`) alone: a small grid is kept, of a large one what is
    indexed is drawn again each time, the same to the last bit.
    """

    noise: Tensor | DrawnNoise
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
        span: float = 1.0,
    ) -> LossGrid:
        """The grid of `count` timesteps; `draw` picks an independent one (the teacher against itself).

        `mirrored`: each noise is met by its mirror image in a second column, `count` columns later. What is odd in the
        noise then cancels in a mean: half as many timesteps twice cost the same and agree better (docs/teacher.md).
        `shared`: all items meet the same noise at a timestep, so that what it adds is no difference between them.
        `span`: of the schedule, from its quiet end, that the timesteps lie in.
        """
        steps = loss_timesteps(model, count, span)
        signs = [1.0, -1.0] if mirrored else [1.0]
        shape = tuple(data.latents.shape[1:])
        times = torch.tensor(steps * len(signs))
        if shared:
            # One draw, seen as that of every item: it takes no memory of its own.
            kept = noise_grid([noise_key(0, "every item")], steps, shape, draw)
            kept = torch.cat([kept, -kept], dim=1) if mirrored else kept
            return cls(kept.expand(len(data), *kept.shape[1:]), times)
        drawn = DrawnNoise(item_keys(data), [(step, sign) for sign in signs for step in steps], shape, draw)
        if drawn.nbytes > MOST_KEPT_BYTES:
            return cls(drawn, times)
        kept = noise_grid(drawn.keys, steps, shape, draw)
        return cls(torch.cat([kept, -kept], dim=1) if mirrored else kept, times)

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
