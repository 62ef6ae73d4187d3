"""A head that starts from what unlearning does to keys and values, before it has seen a label.

Keys and values are linear in a token's state. A natural-gradient step on a query moves them, at a token s of an item,
by about sum_t u_t <t, s> over the query's tokens t, with <t, s> = t^T (C + damping)^-1 s and C the second moment of
token states (the activation factor of EK-FAC). A step of finite size changes the item's loss beyond first order, so
what counts is a higher power:

    k(q, i) = ( sum_{t in q, s in i} max(<t, s>, 0)^3 )^(1/2)

The head embeds this kernel by its largest eigenvectors over the items, and is then trained on labels. The square root
lets 256 numbers hold what otherwise takes 768 (docs/student.md).
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from attributary_train.towers.rows import unit_rows

from .config import StudentConfig
from .sight import Seen
from .tower_heads import COMPONENTS, principal

POWER = 3
# Of the largest eigenvalue, what smaller ones are taken for. Products with items do not depend on it, but repeated
# prompts have directions of rounding alone, which the inverse root blows up.
_FLOOR = 1e-5


class TokenKernel(nn.Module):
    """k(q, i) of a fixed set of items.

    Buffers: matrix float32 [F, F], the whitening; tokens float32 [F, N * T], whitened tokens of all items, 0 where an
    item has none.
    """

    matrix: Tensor
    tokens: Tensor

    def __init__(self, items: Seen, damping: float) -> None:
        super().__init__()
        states = items.states[items.mask > 0]
        values, vectors = torch.linalg.eigh(states.T.double() @ states.double() / len(states))
        matrix = (vectors * (values + damping * values.mean()).rsqrt()).float()
        matrix = matrix / (states @ matrix).square().sum(1).mean().sqrt()
        longest = max(1, int(items.mask.sum(1).max()))
        tokens = (items.states @ matrix * items.mask[:, :, None])[:, :longest]
        self.count, self.longest = len(items), longest
        self.register_buffer("matrix", matrix)
        self.register_buffer("tokens", tokens.reshape(-1, tokens.shape[2]).T.contiguous())

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """Token states float32 [B, T, F] with mask [B, T] -> k with every item, float32 [B, N]."""
        own = (states @ self.matrix) * mask[:, :, None]
        total = ((own @ self.tokens).clamp(min=0.0) ** POWER).sum(1)
        return (total.reshape(-1, self.count, self.longest).sum(2) + 1e-12).sqrt()

    @torch.inference_mode()
    def of(self, seen: Seen, batch: int = 16) -> Tensor:
        """The same in small batches, float32 [Q, N]."""
        parts = [
            self(seen.states[at : at + batch], seen.mask[at : at + batch])
            for at in range(0, len(seen), batch)
        ]
        return torch.cat(parts).clone()


class KernelHead(nn.Module):
    """Prompt through the kernel, picture and prompt through an MLP that starts at nothing; without a prompt, the
    picture alone through an MLP of its own."""

    image_mean: Tensor
    image_matrix: Tensor
    lift: Tensor

    def __init__(self, config: StudentConfig, features: Seen) -> None:
        super().__init__()
        self.kernel = TokenKernel(features, config.whitening)
        picture = principal(features.image, COMPONENTS)
        own = self.kernel.of(features).double()
        values, vectors = torch.linalg.eigh(0.5 * (own + own.T))
        keep = min(config.dim - 1, len(features))
        values, vectors = values[-keep:].clamp(min=_FLOOR * float(values[-1])), vectors[:, -keep:]
        wide = picture.matrix.shape[1]
        self.dim, self.use_image = config.dim, config.image
        self.register_buffer("image_mean", picture.mean)
        self.register_buffer("image_matrix", picture.matrix)
        # The last number of an embedding is kept for the items' lengths; see `_start`.
        lift = torch.zeros(len(features), config.dim)
        lift[:, :keep] = (vectors / values.sqrt()).float()
        self.register_buffer("lift", lift)
        self.start = self._start((vectors * values.sqrt()).float())
        self.joint = _mlp(wide + config.dim, config)
        last = cast(nn.Linear, self.joint[-1])
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.picture = _mlp(wide, config)

    def _start(self, coordinates: Tensor) -> Tensor:
        """Item vectors of the untrained kernel: what is missing to the longest goes where no query points, so that
        products keep the items' lengths though all rows have unit length (Bachrach et al., 2014)."""
        coordinates = coordinates / coordinates.norm(dim=1).quantile(0.99)
        out = torch.zeros(len(coordinates), self.dim)
        out[:, : coordinates.shape[1]] = coordinates
        out[:, -1] = (1.0 - coordinates.square().sum(1)).clamp(min=0.0).sqrt()
        return unit_rows(out)

    def reduce(self, seen: Seen) -> Seen:
        """Components of the image; the embedded kernel in place of the states, [N, 1, D]; whether there is a prompt."""
        image = (seen.image - self.image_mean) @ self.image_matrix
        prompt = unit_rows(self.kernel(seen.states, seen.mask) @ self.lift)
        return Seen(image * float(self.use_image), prompt[:, None], seen.mask.amax(1, keepdim=True))

    def reduce_all(self, seen: Seen, batch: int = 16) -> Seen:
        """`reduce` in small batches: a query meets every token of every item."""
        parts = []
        with torch.inference_mode():
            for at in range(0, len(seen), batch):
                parts.append(self.reduce(seen.take(range(at, min(at + batch, len(seen))))))
        return Seen(
            *(torch.cat([getattr(p, name) for p in parts]).clone() for name in ("image", "states", "mask"))
        )

    def embed(self, seen: Seen) -> Tensor:
        """See the class; float32 [B, D], rows of unit length."""
        prompt = seen.states[:, 0]
        with_prompt = unit_rows(prompt + self.joint(torch.cat([seen.image, prompt], dim=1)))
        return seen.mask * with_prompt + (1.0 - seen.mask) * unit_rows(self.picture(seen.image))

    def forward(self, image: Tensor, states: Tensor, mask: Tensor) -> Tensor:
        """From tower outputs to the embedding."""
        return self.embed(self.reduce(Seen(image, states, mask)))


def _mlp(inner: int, config: StudentConfig) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inner, config.hidden), nn.GELU(), nn.Dropout(config.dropout),
        nn.Linear(config.hidden, config.hidden), nn.GELU(), nn.Dropout(config.dropout),
        nn.Linear(config.hidden, config.dim),
    )  # fmt: skip
