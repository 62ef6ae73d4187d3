"""Maps over frozen features, learned from pairs of exemplar and generated picture.

`LinearMap`, one for both sides, is the default. `TwoMaps` learns one map for generated pictures and another for
training images, as the publication does; **the two-map design is the subject of a published patent application
(US 2025/0104399 A1)**: take legal advice before using it. Nothing here uses it unless it is asked for by name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from attributary_train.customization.spaces.base import Features
from attributary_train.errors import CustomizationError

Kind = Literal["shared", "mlp", "two"]


@dataclass(frozen=True)
class MapSettings:
    """How a map is trained: InfoNCE in both directions with in-batch negatives, and an orthogonality penalty."""

    kind: Kind = "shared"
    steps: int = 400
    batch: int = 192
    learning_rate: float = 1e-3
    orthogonality: float | None = None  # weight of the penalty; None: chosen on the validation split
    temperature: float = 0.05  # where the learned temperature starts
    look_every: int = 20  # steps between two looks at the validation split
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise CustomizationError("map.kind", f"{self.kind!r}; there are {', '.join(get_args(Kind))}")
        CustomizationError.if_below(1, "map.", steps=self.steps, batch=self.batch, look_every=self.look_every)
        if not self.temperature > 0.0:
            raise CustomizationError("map.temperature", f"{self.temperature}; must be above 0")


class Map(nn.Module):
    """Features of either side to rows of unit length."""

    def generated(self, x: Tensor) -> Tensor:
        """Of generated pictures, [B, D] -> [B, d]."""
        raise NotImplementedError

    def items(self, x: Tensor) -> Tensor:
        """Of training images, [B, D] -> [B, d]."""
        raise NotImplementedError

    def penalty(self) -> Tensor:
        """How far from a rotation: the mean square of W^T W - I over its D rows."""
        raise NotImplementedError


class LinearMap(Map):
    """z = normalise(W x + b) for both sides; W starts as the identity."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.linear = _identity(dim)

    def generated(self, x: Tensor) -> Tensor:
        """The one map."""
        return F.normalize(self.linear(x), dim=1)

    items = generated

    def penalty(self) -> Tensor:
        """Of the one map."""
        return _off_rotation(self.linear)


class TwoMaps(Map):
    """One map a side. Subject of a published patent application (US 2025/0104399 A1); optional, never the default."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.of_generated, self.of_items = _identity(dim), _identity(dim)

    def generated(self, x: Tensor) -> Tensor:
        """The map of generated pictures."""
        return F.normalize(self.of_generated(x), dim=1)

    def items(self, x: Tensor) -> Tensor:
        """The map of training images."""
        return F.normalize(self.of_items(x), dim=1)

    def penalty(self) -> Tensor:
        """Mean of both."""
        return (_off_rotation(self.of_generated) + _off_rotation(self.of_items)) / 2


class MlpMap(Map):
    """z = normalise(W x + b + MLP(x)), one hidden layer; the MLP's last layer starts at zero, so the whole at x."""

    def __init__(self, dim: int, hidden: int = 256) -> None:
        super().__init__()
        self.linear = _identity(dim)
        self.first, self.last = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def generated(self, x: Tensor) -> Tensor:
        """The one map."""
        return F.normalize(self.linear(x) + self.last(F.gelu(self.first(x * x.shape[1] ** 0.5))), dim=1)

    items = generated

    def penalty(self) -> Tensor:
        """Of the linear part."""
        return _off_rotation(self.linear)


def new_map(settings: MapSettings, dim: int) -> Map:
    """An untrained map of `dim` dimensions: the identity."""
    torch.manual_seed(settings.seed)
    made: Map = {"shared": LinearMap, "mlp": MlpMap, "two": TwoMaps}[settings.kind](dim)
    return made


@dataclass(frozen=True)
class Reduction:
    """An orthonormal basis float32 [D, d] that features are brought to before a map: a map of D x D would have more
    weights than pairs can settle. Not centred, so that cosines keep their meaning; `kept` is the share of energy."""

    basis: Features
    kept: float

    @classmethod
    def fit(cls, rows: Features, dim: int) -> Reduction:
        """Leading right singular vectors of rows float32 [N, D]; the identity where D <= `dim`."""
        width = rows.shape[1]
        if width <= dim:
            return cls(np.eye(width, dtype=np.float32), 1.0)
        products = rows.T.astype(np.float64) @ rows.astype(np.float64)
        energy, vectors = np.linalg.eigh(products)
        return cls(vectors[:, ::-1][:, :dim].astype(np.float32), float(energy[-dim:].sum() / energy.sum()))

    def apply(self, rows: Features) -> Features:
        """float32 [N, D] -> float32 [N, d], rows of unit length."""
        reduced = rows @ self.basis
        return np.asarray(
            reduced / np.maximum(np.linalg.norm(reduced, axis=1, keepdims=True), 1e-12), np.float32
        )


def contrastive(made: Tensor, stored: Tensor, whose: npt.NDArray[np.int64], log_scale: Tensor) -> Tensor:
    """Symmetric InfoNCE over a batch of pairs, [B, d] each (van den Oord et al., 2018).

    Pairs of one exemplar are no negatives of each other.
    """
    logits = made @ stored.T * log_scale.exp()
    same = torch.from_numpy(whose[:, None] == whose[None, :])
    logits = logits.masked_fill(same & ~torch.eye(len(made), dtype=torch.bool), -torch.inf)
    target = torch.arange(len(made))
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def _identity(dim: int) -> nn.Linear:
    linear = nn.Linear(dim, dim)
    nn.init.eye_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear


def _off_rotation(linear: nn.Linear) -> Tensor:
    weight = linear.weight
    return (weight.T @ weight - torch.eye(weight.shape[1])).square().sum() / weight.shape[1]
