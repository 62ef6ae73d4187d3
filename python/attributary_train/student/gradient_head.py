"""What was learnt beside TRAK's kernel of the generator's own gradients, as one embedding; items have lengths.

The kernel is phi(q)^T (Phi^T Phi + ridge)^-1 phi(i) (Park et al., "TRAK", ICML 2023), which D-TRAK compares by too. In
it some items are long and some short: they move the generator more than others, whoever asks. An item's vector is what
was learnt of it and its direction among the gradients, side by side, times its length to a power. Unit vectors carry
the length in one more coordinate, which is 0 in queries (Bachrach et al., "Speeding Up the Xbox Recommender System
Using a Euclidean Transformation for Inner-Product Spaces", RecSys 2014): nothing that compares or stores vectors has to
know.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from attributary_train.errors import StudentError

from .generator_tower import GeneratorStudent
from .gradient_tower import GradientTower

# Directions kept of the gradient; the ridge of its kernel over the mean eigenvalue, as D-TRAK's.
DIRECTIONS, RIDGE = 512, 0.1
# What the longest item has beside the new coordinate; below 1, where rounding would be all that the coordinate holds.
LONGEST = 0.99


@dataclass(frozen=True)
class GradientSettings:
    """rank: of the two-sided projection of each layer's gradient. weight: of the gradients' kernel beside what was
    learnt, in deviations between items. apart: how much of the items' mean is taken from what was learnt; with none of
    it left, what all items have in common moves nobody's share. power: of the lengths; 0: all are equal."""

    rank: int = 8
    weight: float = 0.5
    apart: float = 0.6
    power: float = 0.5

    def __post_init__(self) -> None:
        StudentError.if_below(1, rank=self.rank)
        for name, most in (("weight", 100.0), ("apart", 1.0), ("power", 2.0)):
            if not 0.0 <= getattr(self, name) <= most:
                raise StudentError(name, f"{getattr(self, name)}; must be from 0 to {most:g}")


def kernel_directions(rows: Tensor) -> Tensor:
    """[G, at most `DIRECTIONS`]: of gradients [n, G], the leading directions V / sqrt(S^2 + ridge).

    Inner products of rows that went through it are TRAK's kernel in them; rows are as long as on average 1.
    """
    _, values, directions = torch.linalg.svd(rows.double(), full_matrices=False)
    ridge = RIDGE * values.square().mean()
    matrix = directions[:DIRECTIONS].T / (values[:DIRECTIONS].square() + ridge).sqrt().clamp(min=1e-12)
    length = (rows.double() @ matrix).norm(dim=1).mean()
    if not bool(torch.isfinite(length)) or float(length) <= 0:
        raise StudentError("gradients", "of the items are not all finite numbers, or all are 0")
    scaled: Tensor = (matrix / length).float()
    return scaled


class GradientHead(nn.Module):
    """Unit vectors [B, D] and gradients [B, G] -> the same as queries and as items, float32 [B, D] each, unit rows."""

    matrix: Tensor  # [G, K], `kernel_directions`
    mean: Tensor  # [D], what is taken away from items
    power: Tensor
    least: Tensor  # of a length, as the items have it
    most: Tensor
    learnt: Tensor  # [D, D - 1]
    kernel: Tensor  # [K, D - 1]
    reach: Tensor  # what the longest item has before it is `LONGEST`

    def __init__(self, dim: int, gradients: int, directions: int) -> None:
        super().__init__()
        shapes = {
            "matrix": (gradients, directions), "mean": (dim,), "learnt": (dim, dim - 1),
            "kernel": (directions, dim - 1), "power": (), "least": (), "most": (), "reach": (),
        }  # fmt: skip
        for name, shape in shapes.items():
            self.register_buffer(name, torch.zeros(shape))

    def seen(self, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Unit rows [B, K] in the kernel, and what an item is multiplied by for its length, [B, 1]."""
        rows = gradient @ self.matrix
        length = rows.norm(dim=1, keepdim=True).clamp(min=1e-9)
        return rows / length, torch.minimum(torch.maximum(length, self.least), self.most) ** self.power

    def apart(self, embedding: Tensor, gradient: Tensor) -> Tensor:
        """Items before they are unit rows, [B, D - 1]."""
        direction, length = self.seen(gradient)
        return ((embedding - self.mean) @ self.learnt + direction @ self.kernel) * length

    def forward(self, embedding: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """As queries and as items."""
        query = F.normalize(embedding @ self.learnt + self.seen(gradient)[0] @ self.kernel, dim=1)
        item = self.apart(embedding, gradient) * (LONGEST / self.reach)
        # None is longer than the longest that was there at the fit.
        item = item * (LONGEST / item.norm(dim=1, keepdim=True).clamp(min=LONGEST))
        rest = (1.0 - item.square().sum(1, keepdim=True)).sqrt()
        return torch.cat([query, torch.zeros_like(rest)], 1), torch.cat([item, rest], 1)


def fit_gradient(embeddings: Tensor, gradients: Tensor, settings: GradientSettings) -> GradientHead:
    """From the items' unit vectors [N, D] and gradients [N, G]. D stays: what both have beside each other goes through
    the D - 1 directions that items have most of.

    Raises `StudentError` for rows that do not belong together, are too few, or say nothing.
    """
    if len(embeddings) != len(gradients) or len(embeddings) < 2:
        raise StudentError("gradients", f"{len(gradients)} rows for {len(embeddings)} items; 2 at least")
    dim, matrix = embeddings.shape[1], kernel_directions(gradients)
    made = GradientHead(dim, *matrix.shape)
    made.matrix.copy_(matrix)
    made.mean.copy_(settings.apart * embeddings.mean(0))
    made.power.fill_(settings.power)
    length = (gradients @ matrix).norm(dim=1)
    made.least.fill_(length.min().clamp(min=1e-9))
    made.most.fill_(length.max())
    direction, loud = (part.double() for part in made.seen(gradients))
    rows = embeddings.double()
    parts = ((rows - made.mean) * loud, direction * loud)
    wide = [_spread(asked @ part.T) for asked, part in zip((rows, direction), parts, strict=True)]
    scales = (wide[0] ** -0.5, (settings.weight / wide[1]) ** 0.5)
    both = torch.cat([part * scale for part, scale in zip(parts, scales, strict=True)], dim=1)
    turn = torch.linalg.eigh(both.T @ both).eigenvectors[:, 1 - dim :]
    made.learnt.copy_(turn[:dim] * scales[0])
    made.kernel.copy_(turn[dim:] * scales[1])
    made.reach.copy_(made.apart(embeddings, gradients).norm(dim=1).max())
    return made.eval()


def _spread(scores: Tensor) -> float:
    """Deviation of scores [N, N] between items, their own left out."""
    found = float(scores[~torch.eye(len(scores), dtype=torch.bool)].std())
    if not found > 0:
        raise StudentError("items", "are all alike in what was learnt or in their gradients")
    return found


class GradientStudent(nn.Module):
    """uint8 [B, S, S, 3], int64 ids and mask [B, T] -> queries and items, float32 [B, D] each: exported and served."""

    def __init__(self, student: GeneratorStudent, gradient: GradientTower, head: GradientHead) -> None:
        super().__init__()
        self.name, self.dim = student.name, student.dim
        self.image_size, self.max_tokens = student.image_size, student.max_tokens
        self.student, self.gradient, self.head = student, gradient, head

    def forward(self, pixels: Tensor, token_ids: Tensor, token_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Embed a batch; rows whose mask is all zero have no prompt."""
        both: tuple[Tensor, Tensor] = self.head(
            *parts_of(self.student, self.gradient, pixels, token_ids, token_mask)
        )
        return both


def parts_of(
    student: GeneratorStudent, gradient: GradientTower, pixels: Tensor, token_ids: Tensor, token_mask: Tensor
) -> tuple[Tensor, Tensor]:
    """What was learnt [B, D] and the gradient [B, G] of pictures, both under the prompt or the empty one."""
    states, mask = student.read(token_ids, token_mask)
    latents = student.tower.latents(pixels)
    return student.placed(latents, states, mask), gradient(latents, states)
