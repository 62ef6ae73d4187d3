"""A student: image tower, text tower and head as one module, pixels and prompt in, unit vector out."""

from __future__ import annotations

from typing import Protocol, cast

import torch
from torch import Tensor, nn

from .head import Head, HeadModule


class Student(Protocol):
    """What `export_encoder` can export; the distilled student fills the same slot as the untuned one."""

    name: str
    dim: int
    image_size: int
    max_tokens: int

    def __call__(self, pixels: Tensor, token_ids: Tensor, token_mask: Tensor) -> Tensor | tuple[Tensor, ...]:
        """uint8 [B, S, S, 3], int64 [B, T] twice -> float32 [B, D], rows of unit length: one tensor for each name of
        `export_encoder`'s `outputs`, a tuple where there are several."""
        ...


class TwoTowerStudent(nn.Module):
    """The untuned encoder: pooled features of each tower, joined by a head fitted on the corpus."""

    def __init__(self, image_tower: nn.Module, text_tower: nn.Module, head: Head) -> None:
        super().__init__()
        self.image_tower = image_tower
        self.text_tower = text_tower
        self.head = HeadModule(head)
        self.name = f"{image_tower.name}+{text_tower.name}"
        self.dim = head.dim
        self.image_size = cast(int, image_tower.image_size)
        self.max_tokens = cast(int, text_tower.max_tokens)

    def forward(self, pixels: Tensor, token_ids: Tensor, token_mask: Tensor) -> Tensor:
        """Embed a batch; rows whose mask is all zero have no prompt."""
        has_prompt = token_mask.amax(dim=1, keepdim=True).to(torch.float32)
        out: Tensor = self.head(self.image_tower(pixels), self.text_tower(token_ids, token_mask), has_prompt)
        return out
