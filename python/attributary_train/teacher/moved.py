"""Losses of training items under moved weights: what finite-step unlearning is scored by."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from attributary_train.subject.data import SubjectData
from attributary_train.subject.model import SubjectModel
from attributary_train.teacher.draws import LossGrid
from attributary_train.teacher.ekfac import Gradients, add_matrix

# Rows of one U-Net pass; scores do not depend on it beyond rounding.
BATCH = 128


@contextmanager
def moved(unet: nn.Module, change: Gradients) -> Iterator[None]:
    """The U-Net with `change` (module name -> [O, I]) added; the very bits come back afterwards."""
    modules = dict(unet.named_modules())
    kept = {
        name: {key: value.clone() for key, value in modules[name].state_dict().items()} for name in change
    }
    try:
        for name, value in change.items():
            add_matrix(modules[name], value)
        yield
    finally:
        for name, state in kept.items():
            modules[name].load_state_dict(state)


@torch.inference_mode()
def losses(
    model: SubjectModel,
    data: SubjectData,
    grid: LossGrid,
    rows: npt.NDArray[np.int64],
) -> Tensor:
    """Denoising losses, float32 [len(rows), T], on the CPU; pairs (item, timestep) are batched together, 128 a pass."""
    device = data.latents.device
    count = len(grid.timesteps)
    items = torch.from_numpy(np.repeat(np.asarray(rows, np.int64), count)).to(device)
    columns = torch.arange(count).repeat(len(rows)).to(device)
    out = torch.empty(len(items), device=device)
    for at in range(0, len(items), BATCH):
        row, column = items[at : at + BATCH], columns[at : at + BATCH]
        out[at : at + BATCH] = model.losses(
            data.latents[row],
            grid.noise[row, column],
            grid.timesteps[column],
            data.text_at(row, grid.timesteps[column]),
        )
    return out.view(len(rows), count).cpu()
