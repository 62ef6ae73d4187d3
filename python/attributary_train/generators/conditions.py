"""What a denoiser is told of a prompt, and its form as one array: token states, a pooled vector, a mask."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812


@dataclass(frozen=True)
class Conditions:
    """states: float32 [B, T, D]; pooled: float32 [B, P] or None; mask: float32 [B, T], 1 where a token is, or None."""

    states: Tensor
    pooled: Tensor | None = None
    mask: Tensor | None = None


@dataclass(frozen=True)
class Layout:
    """Sizes of conditions; `pooled` 0 and `masked` False where there are none.

    Packed they are float32 [B, rows, dim]: the states, then pooled vector and mask as further rows, filled with zeros.
    What keeps, maps, repeats or selects text states so works for every family.
    """

    tokens: int
    dim: int
    pooled: int = 0
    masked: bool = False

    @property
    def rows(self) -> int:
        """Rows of the packed form."""
        return self.tokens + -(-self.pooled // self.dim) + (-(-self.tokens // self.dim) if self.masked else 0)

    @classmethod
    def of(cls, conditions: Conditions) -> Layout:
        """The layout of conditions."""
        pooled = 0 if conditions.pooled is None else conditions.pooled.shape[1]
        return cls(
            conditions.states.shape[1], conditions.states.shape[2], pooled, conditions.mask is not None
        )

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Layout:
        """The inverse of dataclasses.asdict."""
        return cls(int(values["tokens"]), int(values["dim"]), int(values["pooled"]), bool(values["masked"]))

    def pack(self, conditions: Conditions) -> Tensor:
        """As one array."""
        parts = [conditions.states]
        if conditions.pooled is not None:
            parts.append(self._rows(conditions.pooled))
        if conditions.mask is not None:
            parts.append(self._rows(conditions.mask.to(conditions.states.dtype)))
        return torch.cat(parts, dim=1)

    @torch.no_grad()
    def pack_all(self, conditions: Iterable[Conditions]) -> Tensor:
        """Batches of conditions as one array."""
        return torch.cat([self.pack(some) for some in conditions])

    def unpack(self, text: Tensor) -> Conditions:
        """The inverse of `pack`."""
        at = self.tokens
        states, pooled, mask = text[:, :at], None, None
        if self.pooled:
            end = at + -(-self.pooled // self.dim)
            pooled, at = text[:, at:end].flatten(1)[:, : self.pooled], end
        if self.masked:
            mask = text[:, at:].flatten(1)[:, : self.tokens]
        return Conditions(states, pooled, mask)

    def _rows(self, values: Tensor) -> Tensor:
        count = -(-values.shape[1] // self.dim)
        return F.pad(values, (0, count * self.dim - values.shape[1])).view(len(values), count, self.dim)
