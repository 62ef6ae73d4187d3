"""Losses of queries under a retrained model, with the same noise for every model.

The noise of a cell belongs to (query, timestep, draw). Every model therefore meets the same noise, and a difference of
two models' losses is not a difference of two draws.
"""

from __future__ import annotations

import hashlib
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from attributary_train.errors import EvaluationError
from attributary_train.files import whole
from attributary_train.subject.model import SubjectModel, loss_timesteps, require_finite
from attributary_train.subject.noise import noise_grid
from attributary_train.subject.queries import Queries

# One loss a (query, timestep, draw), float32 [Q, T, R].
Cells = npt.NDArray[np.float32]
TIMESTEPS, DRAWS = 50, 2
_BATCH = 512


@dataclass(frozen=True)
class Grid:
    """Where losses are taken: evenly spaced timesteps, each with independent draws of noise."""

    timesteps: int = TIMESTEPS
    draws: int = DRAWS

    def __post_init__(self) -> None:
        EvaluationError.if_below(1, "grid.", timesteps=self.timesteps, draws=self.draws)


class QueryLoss:
    """The losses of some queries under any model of their shape; kept on disk by model where a folder is given."""

    def __init__(self, queries: Queries, grid: Grid | None = None, cache: Path | None = None) -> None:
        if not len(queries):
            raise EvaluationError("queries", "there are none in this split")
        self.queries = queries
        self.grid = grid or Grid()
        self._cache = cache
        self._noise: Tensor | None = None
        self._name = self._digest()

    def cells(self, model: SubjectModel) -> Cells:
        """Losses float32 [Q, T, R]; raises `SubjectError` if one is not finite."""
        path = None if self._cache is None else self._cache / f"{self._name}-{model.weights[:24]}.npz"
        if path is not None and (kept := _read(path)) is not None:
            return kept
        cells = self._compute(model)
        if path is not None:
            with whole(path, EvaluationError) as stream:
                np.savez(stream, cells=cells)
        return cells

    @torch.inference_mode()
    def _compute(self, model: SubjectModel) -> Cells:
        steps = loss_timesteps(model, self.grid.timesteps)
        count, draws = len(self.queries), self.grid.draws
        if self._noise is None:
            self._noise = self._draw(steps)
        noise = self._noise.flatten(0, 2)
        device = next(model.unet.parameters()).device
        # A cell's place: query outermost, then timestep, then draw.
        query = torch.arange(count).repeat_interleave(len(steps) * draws)
        timestep = torch.tensor(steps).repeat_interleave(draws).repeat(count)
        losses = []
        for at in range(0, len(query), _BATCH):
            part = slice(at, at + _BATCH)
            rows = query[part]
            given = (self.queries.latents[rows], noise[part], timestep[part], self.queries.text[rows])
            losses.append(model.losses(*(value.to(device) for value in given)).cpu())
        everything = require_finite(torch.cat(losses), "query loss")
        return everything.reshape(count, len(steps), draws).numpy().astype(np.float32)

    def _draw(self, steps: list[int]) -> Tensor:
        shape = tuple(self.queries.latents.shape[1:])
        made_by = self.queries.weights
        # Keys of their own: the teacher's noise must not be met again where the teacher is judged.
        keys = [
            hashlib.blake2b(f"evaluation\t{made_by}\t{name}".encode(), digest_size=16).digest()
            for name in self.queries.names
        ]
        return torch.stack([noise_grid(keys, steps, shape, draw) for draw in range(self.grid.draws)], dim=2)

    def _digest(self) -> str:
        total = hashlib.sha256(f"{self.grid.timesteps} {self.grid.draws} {self.queries.weights}".encode())
        for part in ("\n".join(self.queries.names), "\n".join(self.queries.prompts)):
            total.update(part.encode())
        total.update(self.queries.latents.contiguous().numpy().tobytes())
        return total.hexdigest()[:24]


def mean_losses(cells: Cells) -> npt.NDArray[np.float64]:
    """Mean over timesteps and draws, float64 [Q]."""
    means: npt.NDArray[np.float64] = np.asarray(cells, np.float64).mean(axis=(-2, -1))
    return means


def monte_carlo_error(first: Cells, second: Cells) -> float:
    """Standard error of a difference of two models' mean losses that the grid's noise leaves, over queries (RMS).

    Estimated from how far the independent draws of the same cells disagree; timesteps are fixed, so they add none.
    NaN with a single draw.
    """
    difference = np.asarray(first, np.float64) - np.asarray(second, np.float64)
    draws = difference.shape[-1]
    if draws < 2:
        return float("nan")
    per_draw = difference.mean(axis=-2)
    return float(np.sqrt((per_draw.var(axis=-1, ddof=1) / draws).mean()))


def _read(path: Path) -> Cells | None:
    try:
        with np.load(path, allow_pickle=False) as parts:
            cells: Cells = parts["cells"]
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile):
        return None  # Not there or cut off: computed again in seconds.
    return cells
