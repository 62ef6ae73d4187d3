"""Random projections of per-sample gradients: inner products survive, storage shrinks.

A projection sees a layer's gradient as its two factors (activations and output gradients), so that one that acts on the
factors never builds the full gradient. Every matrix is a function of (seed, position) alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from attributary_train.errors import TeacherError

# Rows of a dense projection that are drawn at a time: 8192 x 4096 float32 are 128 MiB.
_ROWS = 8192


class Projection(Protocol):
    """Layers' gradients to features. `reduce` runs on every pass and its results are summed; `finish` on the sums."""

    def width(self, outputs: int, inputs: int) -> int:
        """Length of what `reduce` gives for a layer with weight [outputs, inputs]."""

    def reduce(self, layer: int, activations: Tensor, gradients: Tensor) -> Tensor:
        """[n, S, I] and [n, S, O] of layer number `layer` -> [n, width], linear in their product."""

    def finish(self, raw: Tensor) -> Tensor:
        """[n, sum of widths] -> features [n, k]."""


def outer(activations: Tensor, gradients: Tensor) -> Tensor:
    """sum_s g_s a_s^T: [n, S, I], [n, S, O] -> [n, O * I], a layer's gradient row by row."""
    return torch.bmm(gradients.transpose(1, 2), activations).flatten(1)


class Whole:
    """No projection."""

    def width(self, outputs: int, inputs: int) -> int:
        """All weights."""
        return outputs * inputs

    def reduce(self, layer: int, activations: Tensor, gradients: Tensor) -> Tensor:
        """The gradient."""
        return outer(activations, gradients)

    def finish(self, raw: Tensor) -> Tensor:
        """The same."""
        return raw


@dataclass(frozen=True)
class Flat(Whole):
    """The whole gradient, a vector, to `dim` numbers.

    `normal` and `rademacher`: a dense matrix with entries of variance 1 / dim, as TRAK uses (Park et al., 2023).
    `sparse`: each coordinate goes to one random place with a random sign (Charikar et al., 2002; Weinberger et al.,
    2009); the same mean and, for gradients without a dominant coordinate, the same variance, at a cost that does not
    grow with `dim`.
    """

    dim: int = 4096
    kind: Literal["sparse", "normal", "rademacher"] = "sparse"
    seed: int = 0

    def __post_init__(self) -> None:
        TeacherError.if_below(1, "projection.", dim=self.dim)
        if self.kind not in ("sparse", "normal", "rademacher"):
            raise TeacherError("projection.kind", f"{self.kind!r}; there are sparse, normal, rademacher")

    def finish(self, raw: Tensor) -> Tensor:
        """[n, P] -> [n, dim]."""
        out = torch.zeros(len(raw), self.dim)
        for block, at in enumerate(range(0, raw.shape[1], _ROWS)):
            part = raw[:, at : at + _ROWS]
            stream = np.random.Generator(np.random.Philox(np.random.SeedSequence((self.seed, block))))
            if self.kind == "sparse":
                places = torch.from_numpy(stream.integers(0, self.dim, _ROWS))[: part.shape[1]]
                signs = torch.from_numpy(stream.integers(0, 2, _ROWS).astype(np.float32) * 2 - 1)
                out.index_add_(1, places, part * signs[: part.shape[1]])
            else:
                out.addmm_(part, self._dense(stream)[: part.shape[1]], alpha=self.dim**-0.5)
        return out

    def _dense(self, stream: np.random.Generator) -> Tensor:
        shape = (_ROWS, self.dim)
        if self.kind == "normal":
            return torch.from_numpy(stream.standard_normal(shape, np.float32))
        bits = np.frombuffer(stream.bytes(-(-_ROWS * self.dim // 8)), np.uint8)
        signs = np.unpackbits(bits, count=_ROWS * self.dim).reshape(shape)
        return torch.from_numpy(signs).float().mul_(2).sub_(1)


@dataclass(frozen=True)
class TwoSided:
    """LoGra's: each layer's activations and output gradients are projected to at most `rank` dimensions each.

    A layer keeps rank^2 numbers and its full gradient is never formed (Choe et al., "What is Your Data Worth to GPT?",
    2024), with random normal matrices.
    """

    rank: int = 8
    seed: int = 0
    _drawn: dict[tuple[int, int, int], Tensor] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        TeacherError.if_below(1, "projection.", rank=self.rank)

    def width(self, outputs: int, inputs: int) -> int:
        """At most rank^2."""
        return min(self.rank, outputs) * min(self.rank, inputs)

    def reduce(self, layer: int, activations: Tensor, gradients: Tensor) -> Tensor:
        """P_o^T (sum_s g_s a_s^T) P_i, from the factors."""
        inside, outside = self.sides(layer, gradients.shape[-1], activations.shape[-1])
        return outer(activations @ inside.to(activations.device), gradients @ outside.to(gradients.device))

    def sides(self, layer: int, outputs: int, inputs: int) -> tuple[Tensor, Tensor]:
        """P_i [inputs, at most rank] and P_o [outputs, at most rank] of a layer."""
        return self._side(layer, 0, inputs), self._side(layer, 1, outputs)

    def finish(self, raw: Tensor) -> Tensor:
        """The same."""
        return raw

    def _side(self, layer: int, side: int, size: int) -> Tensor:
        """float32 [size, min(rank, size)]; a side that is no longer than the rank stays whole."""
        if size <= self.rank:
            return torch.eye(size)
        key = (layer, side, size)
        if key not in self._drawn:
            stream = np.random.default_rng((self.seed, *key))
            drawn = stream.standard_normal((size, self.rank), np.float32) / np.sqrt(self.rank)
            self._drawn[key] = torch.from_numpy(drawn.astype(np.float32))
        return self._drawn[key]
