"""The head: brings each tower's features to a small unit vector and joins the two parts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from attributary_train.towers.rows import FloatArray, unit, unit_rows


@dataclass(frozen=True, slots=True)
class Projection:
    """Features x, float32 [F], become normalise((normalise(x) - mean) @ matrix), float32 [d]."""

    mean: FloatArray  # [F]
    matrix: FloatArray  # [F, d]

    @classmethod
    def identity(cls, features: int) -> Projection:
        """Leave the normalised features as they are."""
        return cls(np.zeros(features, np.float32), np.eye(features, dtype=np.float32))

    @property
    def dim(self) -> int:
        """d, dimensions after the projection."""
        return int(self.matrix.shape[1])

    def apply(self, features: FloatArray) -> FloatArray:
        """Project float32 [N, F]; returns float32 [N, d], rows of unit length (a zero row stays zero)."""
        projected = cast(FloatArray, (unit(features) - self.mean) @ self.matrix)
        rows: FloatArray = unit(projected) * (np.abs(features).max(axis=1, keepdims=True) > 0)
        return rows


@dataclass(frozen=True, slots=True)
class Head:
    """How the two parts are joined: normalise([w_i * image, w_t * text]); no prompt, no text part."""

    image: Projection
    text: Projection
    image_weight: float = 1.0
    text_weight: float = 1.0

    @property
    def dim(self) -> int:
        """D, dimensions of an embedding."""
        return self.image.dim + self.text.dim

    def apply(self, image: FloatArray, text: FloatArray) -> FloatArray:
        """Join float32 features [N, F_i] and [N, F_t]; a zero row of text means no prompt.

        Returns float32 [N, D], rows of unit length.
        """
        parts = [self.image_weight * self.image.apply(image), self.text_weight * self.text.apply(text)]
        return unit(np.concatenate(parts, axis=1))

    def save(self, path: Path) -> None:
        """Write the head as one .npz file."""
        np.savez(
            path,
            image_mean=self.image.mean,
            image_matrix=self.image.matrix,
            text_mean=self.text.mean,
            text_matrix=self.text.matrix,
            weights=np.array([self.image_weight, self.text_weight], np.float64),
        )

    @classmethod
    def load(cls, path: Path) -> Head:
        """Read what `save` wrote."""
        with np.load(path, allow_pickle=False) as file:
            image = Projection(file["image_mean"], file["image_matrix"])
            text = Projection(file["text_mean"], file["text_matrix"])
            image_weight, text_weight = (float(w) for w in file["weights"])
        return cls(image, text, image_weight, text_weight)


class HeadModule(nn.Module):
    """`Head.apply` in torch: features [B, F_i] and [B, F_t], prompt flag [B, 1] -> [B, D]."""

    def __init__(self, head: Head) -> None:
        super().__init__()
        self.image = _ProjectionModule(head.image)
        self.text = _ProjectionModule(head.text)
        self.image_weight = head.image_weight
        self.text_weight = head.text_weight

    def forward(self, image: Tensor, text: Tensor, has_prompt: Tensor) -> Tensor:
        """Join the parts; rows of unit length."""
        text_part = self.text(text) * has_prompt
        joined = torch.cat([self.image_weight * self.image(image), self.text_weight * text_part], dim=1)
        return unit_rows(joined)


class _ProjectionModule(nn.Module):
    def __init__(self, projection: Projection) -> None:
        super().__init__()
        # (x - mean) @ matrix = x @ matrix + bias, one matrix product in the graph.
        bias = -projection.mean.astype(np.float64) @ projection.matrix.astype(np.float64)
        self.matrix = nn.Parameter(torch.from_numpy(projection.matrix.copy()))
        self.bias = nn.Parameter(torch.from_numpy(bias.astype(np.float32)))

    def forward(self, x: Tensor) -> Tensor:
        return unit_rows(torch.addmm(self.bias, unit_rows(x), self.matrix))
