"""The diagonal of the Fisher information, as AbU preconditions by it (Wang et al., NeurIPS 2024; EWC, Kirkpatrick et
al., 2017).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from attributary_train.subject.data import SubjectData
from attributary_train.subject.model import SubjectModel, require_finite
from attributary_train.teacher.draws import LossGrid
from attributary_train.teacher.ekfac import FactorSettings, Gradients
from attributary_train.teacher.ekfac_torch import backward_pass
from attributary_train.teacher.parameters import module_names


@dataclass(frozen=True)
class Diagonal:
    """Mean squared gradient of every weight: module -> float32 [O, I]."""

    squares: Mapping[str, Tensor]
    weights: str

    def to(self, device: str) -> Diagonal:
        """The same diagonal on a device."""
        return Diagonal({name: value.to(device) for name, value in self.squares.items()}, self.weights)

    @property
    def digest(self) -> str:
        """SHA-256 of the diagonal, hexadecimal."""
        total = hashlib.sha256(self.weights.encode())
        for name in sorted(self.squares):
            total.update(name.encode() + self.squares[name].contiguous().cpu().numpy().tobytes())
        return total.hexdigest()

    def precondition(self, gradients: Gradients, damping: float) -> Gradients:
        """g / (F + damping * mean F), element by element."""
        return {
            name: value / (self.squares[name] + damping * self.squares[name].mean())
            for name, value in gradients.items()
        }

    def quadratic(self, direction: Gradients) -> float:
        """d^T F d."""
        return sum(
            float((value.double().square() * self.squares[name].double()).sum())
            for name, value in direction.items()
        )


def fit_diagonal(model: SubjectModel, data: SubjectData, settings: FactorSettings) -> Diagonal:
    """Mean over items and timesteps of each sample's squared gradient."""
    names = module_names(model.unet, settings.parameters)
    grid = LossGrid.of(model, data, settings.draws, draw=1_000 + settings.seed)
    squares: dict[str, Tensor] = {}

    def add(name: str, seen: Tensor, grad: Tensor) -> None:
        sample = torch.einsum("bpo,bpi->boi", grad, seen)
        squares[name] = squares.get(name, 0.0) + sample.square().sum(dim=0).double()

    backward_pass(model, data, grid, names, settings, add)
    count = len(data) * len(grid.timesteps)
    found = {name: (squares[name] / count).float().cpu() for name in names}
    for name, value in found.items():
        require_finite(value, f"Fisher diagonal of {name}")
    return Diagonal(found, model.weights)
