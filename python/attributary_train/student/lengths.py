"""Items of different lengths: what an embedding of unit vectors forgets of the kernel that it is taught.

TRAK's kernel of gradients, phi(q)^T (Phi^T Phi + ridge)^-1 phi(i) (Park et al., 2023), has long items and short ones:
some move the generator more than others, whoever asks. Between unit vectors all are equal. Here an item's vector is
what its embedding has apart from the mean of all items, times a length that is foretold from the embedding itself, so
that an item that is added to a bundle has one as well. Unit vectors carry it in one more coordinate, which is 0 in
queries (Bachrach et al., "Speeding Up the Xbox Recommender System Using a Euclidean Transformation for Inner-Product
Spaces", RecSys 2014): nothing that compares or stores vectors has to know.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from attributary_train.errors import StudentError

from .generator_head import GRADIENT, kernel_directions

# Of the ridge regression that foretells a logarithm of a length from an embedding.
RIDGE, FOLDS = 0.3, 5
# What the longest item has beside the new coordinate; below 1, where rounding would be all that the coordinate holds.
LONGEST = 0.99
Floats = npt.NDArray[np.float32]


class Lengths(nn.Module):
    """Unit vectors float32 [B, D] -> the same as queries and as items, float32 [B, D] each, rows of unit length.

    The direction in which items have least is given up for the new coordinate, so D stays.
    """

    turn: Tensor  # [D, D - 1]
    mean: Tensor  # [D - 1] of the items
    slope: Tensor  # [D - 1] from an embedding's distance to the mean to the logarithm of its length
    least: Tensor  # of a logarithm, as the items have it
    most: Tensor
    reach: Tensor  # what the longest item has before it is `LONGEST`

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("turn", torch.zeros(dim, dim - 1))
        for name in ("mean", "slope"):
            self.register_buffer(name, torch.zeros(dim - 1))
        for name in ("least", "most", "reach"):
            self.register_buffer(name, torch.zeros(()))

    def kept(self, embedding: Tensor) -> Tensor:
        """Without the direction that is given up, [B, D - 1]."""
        return F.normalize(embedding @ self.turn, dim=1)

    def apart(self, kept: Tensor) -> Tensor:
        """What items differ by, times their lengths, [B, D - 1]."""
        away = kept - self.mean
        logarithm = torch.minimum(torch.maximum(away @ self.slope, self.least), self.most)
        return away * logarithm.exp()[:, None]

    def forward(self, embedding: Tensor) -> tuple[Tensor, Tensor]:
        """As queries and as items."""
        kept = self.kept(embedding)
        item = self.apart(kept) * (LONGEST / self.reach)
        # None is longer than the longest that was there when lengths were fitted.
        item = item * (LONGEST / item.norm(dim=1, keepdim=True).clamp(min=LONGEST))
        rest = (1.0 - item.square().sum(1, keepdim=True)).sqrt()
        return torch.cat([kept, torch.zeros_like(rest)], 1), torch.cat([item, rest], 1)


@dataclass(frozen=True)
class Fit:
    """lengths: the module; foretold: correlation of the logarithms with those of items left out of the regression;
    spread: deviation of the items' lengths over their mean, after the power."""

    lengths: Lengths
    foretold: float
    spread: float


def gradient_lengths(gradients: Tensor) -> Floats:
    """Lengths of items in the kernel of their projected gradients, float32 [N] with mean 1; `gradients` [N, G]."""
    length = (gradients @ kernel_directions(gradients, GRADIENT)).norm(dim=1)
    if not bool(torch.isfinite(length).all()) or float(length.min()) <= 0:
        raise StudentError("lengths", "of the items' gradients are not all positive numbers")
    told: Floats = (length / length.mean()).numpy()
    return told


def fit_lengths(vectors: Floats, lengths: Floats, power: float) -> Fit:
    """Foretell `lengths` [N], to the `power`, from the items' unit vectors [N, D]."""
    if not 0.0 <= power <= 2.0:
        raise StudentError("power", f"{power}; must be from 0 to 2")
    rows = torch.from_numpy(np.asarray(vectors, np.float32))
    if len(rows) < 2 * FOLDS or lengths.shape != (len(rows),):
        raise StudentError("lengths", f"{lengths.shape} for {len(rows)} items; {2 * FOLDS} at least")
    made = Lengths(rows.shape[1])
    _, directions = torch.linalg.eigh(rows.double().T @ rows.double())
    made.turn.copy_(directions[:, 1:].float())
    kept = made.kept(rows)
    made.mean.copy_(kept.mean(0))
    away = (kept - made.mean).double().numpy()
    wanted = np.log(lengths.astype(np.float64))
    wanted -= wanted.mean()
    fold = np.random.default_rng(0).permutation(len(away)) % FOLDS
    unseen = np.empty_like(wanted)
    for one in range(FOLDS):
        unseen[fold == one] = away[fold == one] @ _slope(away[fold != one], wanted[fold != one])
    slope = power * _slope(away, wanted)
    made.slope.copy_(torch.from_numpy(slope))
    found = away @ slope
    made.least.fill_(found.min())
    made.most.fill_(found.max())
    made.reach.copy_(made.apart(kept).norm(dim=1).max())
    each = np.exp(found)
    foretold = float(np.corrcoef(unseen, wanted)[0, 1]) if wanted.std() > 0 else 0.0
    return Fit(made.eval(), foretold, float(each.std() / each.mean()))


def _slope(rows: npt.NDArray[np.float64], wanted: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.asarray(
        np.linalg.solve(rows.T @ rows + RIDGE * np.eye(rows.shape[1]), rows.T @ wanted), np.float64
    )
