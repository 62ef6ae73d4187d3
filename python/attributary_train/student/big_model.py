"""The fitted head behind the untuned towers as one module: what the compact student is distilled from."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from attributary_train.towers.image import EfficientNetLite0


class BigStudent(nn.Module):
    """uint8 [B, S, S, 3] at the generator's size, int64 ids and mask [B, T] -> float32 [B, D].

    The picture is brought to the tower's 224 px inside, by the bicubic filter that its features were made with.
    `text_tower` makes token states, `states(ids, mask)`.
    """

    enlarge: Tensor
    text_tower: Any

    def __init__(
        self, name: str, head: nn.Module, dim: int, image_size: int, max_tokens: int, text_tower: nn.Module
    ) -> None:
        super().__init__()
        self.name, self.dim, self.image_size, self.max_tokens = name, dim, image_size, max_tokens
        self.image_tower, self.text_tower = EfficientNetLite0(), text_tower
        self.head = head
        # Enlarging is a matrix on each axis; as one it exports as two products.
        self.register_buffer("enlarge", enlarging(image_size, self.image_tower.image_size))

    def forward(self, pixels: Tensor, token_ids: Tensor, token_mask: Tensor) -> Tensor:
        """Embed a batch; rows whose mask is all zero have no prompt."""
        x = pixels.to(torch.float32).permute(0, 3, 1, 2)
        image = self.image_tower(enlarged(x, self.enlarge).permute(0, 2, 3, 1))
        states = self.text_tower.states(token_ids, token_mask)
        out: Tensor = self.head(image, states, token_mask.to(torch.float32))
        return out


def enlarged(pictures: Tensor, matrix: Tensor) -> Tensor:
    """Enlarge float32 [..., s, s] by `enlarging`'s matrix: rows first, whole numbers between, as Pillow does."""
    wide = (pictures @ matrix.T).clamp(0.0, 255.0).round()
    return (matrix @ wide).clamp(0.0, 255.0).round()


def enlarging(small: int, large: int) -> Tensor:
    """Pillow's bicubic filter (a = -0.5) as float32 [large, small]; rows sum to 1."""
    scale = small / large
    support = 2.0 * max(1.0, scale)
    out = torch.zeros(large, small, dtype=torch.float64)
    for row in range(large):
        centre = (row + 0.5) * scale
        low, high = max(0, int(centre - support + 0.5)), min(small, int(centre + support + 0.5))
        for column in range(low, high):
            out[row, column] = _bicubic((column - centre + 0.5) / max(1.0, scale))
        out[row] /= out[row].sum()
    return out.float()


def _bicubic(x: float, a: float = -0.5) -> float:
    x = abs(x)
    if x < 1.0:
        return ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    return (((x - 5.0) * x + 8.0) * x - 4.0) * a if x < 2.0 else 0.0
