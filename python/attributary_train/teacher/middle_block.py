"""The generator's own features: cosine of its U-Net's middle block, asked without a prompt. No gradient."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from attributary_train.errors import TeacherError
from attributary_train.subject.data import SubjectData
from attributary_train.subject.model import SubjectModel
from attributary_train.subject.noise import noise_for, noise_key
from attributary_train.subject.queries import Queries
from attributary_train.teacher.method import Method
from attributary_train.teacher.registry import Context

_BATCH = 256


class MiddleBlock(Method):
    """What the model itself sees in a picture: the rival of every teacher that costs a hundredth of it.

    Features at each of `timesteps`, under one noise that all pictures share, less their mean over the items, scaled to
    unit length and summed.
    """

    name = "middle_block"

    def __init__(self, timesteps: tuple[int, ...] = (100, 300)) -> None:
        super().__init__()
        if not timesteps:
            raise TeacherError("timesteps", "is empty; name at least one")
        self.timesteps = timesteps
        self._means: list[Tensor] = []
        self._stored = torch.empty(0)

    def _prepare(self, data: SubjectData, model: SubjectModel) -> float:
        if getattr(model.unet, "mid_block", None) is None:
            raise TeacherError("middle_block", f"a denoiser of family {model.family.name} has none")
        parts = [self._seen(model, data.latents, data.empty, step) for step in self.timesteps]
        self._empty = data.empty
        self._means = [part.mean(0) for part in parts]
        self._stored = self._joined(parts)
        return float(self._stored.numel() * 4)

    def _matrix(self, queries: Queries, rows: npt.NDArray[np.int64]) -> tuple[Tensor, int]:
        assert self._fitted is not None
        _, model = self._fitted
        parts = [self._seen(model, queries.latents, self._empty, step) for step in self.timesteps]
        return self._joined(parts) @ self._stored[rows].T, len(queries) * len(self.timesteps)

    def _joined(self, parts: list[Tensor]) -> Tensor:
        unit = [
            torch.nn.functional.normalize(part - mean, dim=1)
            for part, mean in zip(parts, self._means, strict=True)
        ]
        return torch.nn.functional.normalize(torch.stack(unit).sum(0), dim=1)

    @torch.inference_mode()
    def _seen(self, model: SubjectModel, latents: Tensor, empty: Tensor, step: int) -> Tensor:
        """Middle block's output at one timestep, float32 [B, D]."""
        if not 0 <= step < model.timesteps:
            raise TeacherError("timesteps", f"{step}; must be between 0 and {model.timesteps - 1}")
        noise = torch.from_numpy(noise_for(noise_key(0, "middle block"), step, latents.shape[1:]))
        seen: list[Tensor] = []

        def keep(module: Any, inputs: Any, output: Tensor) -> None:
            seen.append(output.flatten(1).float())

        handle = model.unet.mid_block.register_forward_hook(keep)
        try:
            for at in range(0, len(latents), _BATCH):
                part = latents[at : at + _BATCH]
                text = empty.expand(len(part), -1, -1)
                model.predict(part, noise.expand_as(part), torch.full((len(part),), step), text)
        finally:
            handle.remove()
        return torch.cat(seen)


def middle_block(context: Context, timesteps: list[int] | None = None) -> MiddleBlock:
    """Similarity in the generator's own middle block."""
    return MiddleBlock() if timesteps is None else MiddleBlock(tuple(timesteps))
