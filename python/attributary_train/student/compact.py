"""The compact student: a small network of our own that is served, 64 px picture and word pieces in, unit vector out."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from attributary_train.errors import StudentError
from attributary_train.towers.rows import unit_rows


@dataclass(frozen=True)
class CompactShape:
    """Sizes. dim: D; image_size: S, a multiple of 16; widths: channels at S/4, S/8 and S/16; text_width, text_layers,
    text_heads: of the prompt's tower; known: word pieces with a row of their own; shared: rows that all others share;
    max_tokens: tokens that the generator itself reads of a prompt."""

    dim: int = 256
    image_size: int = 64
    widths: tuple[int, int, int] = (40, 80, 160)
    text_width: int = 96
    text_layers: int = 2
    text_heads: int = 4
    known: int = 1
    shared: int = 256
    max_tokens: int = 16

    def __post_init__(self) -> None:
        if self.image_size % 16:
            raise StudentError("image_size", f"{self.image_size}; must be a multiple of 16")
        if self.text_width % self.text_heads:
            raise StudentError("text_width", f"{self.text_width}; must be a multiple of text_heads")

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; `from_json` is the inverse."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> CompactShape:
        """Read them back."""
        return cls(**{**values, "widths": tuple(values["widths"])})


class Compact(nn.Module):
    """uint8 [B, S, S, 3], int64 ids and mask [B, T] -> float32 [B, D], rows of unit length.

    A prompt's vector, corrected by what the picture adds to it; without a prompt what the picture alone says. `rows`,
    int32 [V], gives each word piece its row of the table.
    """

    name = "compact"

    def __init__(self, shape: CompactShape, rows: Tensor) -> None:
        super().__init__()
        self.shape, self.dim, self.image_size = shape, shape.dim, shape.image_size
        self.max_tokens = shape.max_tokens
        self.image = _ImageTower(shape)
        self.text = _TextTower(shape, rows)
        self.joint = nn.Sequential(nn.Linear(2 * shape.dim, 256), nn.GELU(), nn.Linear(256, shape.dim))
        last = cast(nn.Linear, self.joint[-1])
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, pixels: Tensor, token_ids: Tensor, token_mask: Tensor) -> Tensor:
        """Embed a batch; rows whose mask is all zero have no prompt."""
        some = token_mask.amax(dim=1, keepdim=True).to(torch.float32)
        alone = self.image(pixels)
        both = self.with_prompt(alone, self.text(token_ids, token_mask))
        return unit_rows(some * both + (1.0 - some) * alone)

    def with_prompt(self, alone: Tensor, prompt: Tensor) -> Tensor:
        """What the picture says alone and what the prompt says, both unit rows [B, D], put together."""
        return unit_rows(prompt + self.joint(torch.cat([alone, prompt], dim=1)))


def table_rows(vocabulary: int, known: Tensor, shared: int) -> Tensor:
    """Row of each word piece, int32 [vocabulary]: the known ones behind the shared ones, which the rest falls on."""
    # A multiplier coprime to any power of two spreads neighbouring ids, which are alike in the vocabulary's order.
    rows = (torch.arange(vocabulary, dtype=torch.int64) * 40503 % shared).to(torch.int32)
    rows[known] = torch.arange(len(known), dtype=torch.int32) + shared
    return rows


class _ImageTower(nn.Module):
    def __init__(self, shape: CompactShape) -> None:
        super().__init__()
        first, second, third = shape.widths
        self.body = nn.Sequential(
            _conv(3, first, 4, stride=4), nn.ReLU6(), _Block(first),
            _conv(first, second, 2, stride=2), nn.ReLU6(), _Block(second), _Block(second),
            _conv(second, third, 2, stride=2), nn.ReLU6(), _Block(third), _Block(third),
        )  # fmt: skip
        cells = (shape.image_size // 16) ** 2
        # What stands where matters for drawings: positions are kept, few channels each, beside the mean of all.
        self.narrow = nn.Sequential(_conv(third, 32, 1), nn.ReLU6())
        self.head = nn.Sequential(
            nn.Linear(third + 32 * cells, 384), nn.GELU(), nn.Dropout(0.1), nn.Linear(384, shape.dim)
        )

    def forward(self, pixels: Tensor) -> Tensor:
        x = (pixels.to(torch.float32).permute(0, 3, 1, 2) - 127.0) / 128.0
        x = self.body(x)
        return unit_rows(self.head(torch.cat([x.mean(dim=(2, 3)), self.narrow(x).flatten(1)], dim=1)))


class _Block(nn.Module):
    """x + two convolutions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(_conv(width, width, 3), nn.ReLU6(), _conv(width, width, 3))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = (x + self.layers(x)).clamp(0.0, 6.0)
        return out


def _conv(inner: int, outer: int, size: int, stride: int = 1) -> nn.Sequential:
    padding = size // 2 if stride == 1 else 0
    return nn.Sequential(
        nn.Conv2d(inner, outer, size, stride=stride, padding=padding, bias=False), nn.BatchNorm2d(outer)
    )


class _TextTower(nn.Module):
    rows: Tensor

    def __init__(self, shape: CompactShape, rows: Tensor) -> None:
        super().__init__()
        self.register_buffer("rows", rows)
        width = shape.text_width
        self.table = nn.Embedding(shape.shared + shape.known, width)
        nn.init.normal_(self.table.weight, std=0.5)
        self.places = nn.Parameter(torch.randn(shape.max_tokens, width) * 0.1)
        self.layers = nn.ModuleList(Attention(width, shape.text_heads) for _ in range(shape.text_layers))
        self.deep = nn.Sequential(nn.Linear(width, 384), nn.GELU())
        self.out = nn.Linear(384, shape.dim)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        weight = mask.to(torch.float32)
        x = self.table(self.rows[ids].to(torch.int64)) + self.places[: ids.shape[1]]
        for layer in self.layers:
            x = layer(x, weight)
        # The sum, not the mean: a token's say does not shrink with the company that it keeps.
        return unit_rows(self.out((self.deep(x) * weight[:, :, None]).sum(1)))


class Attention(nn.Module):
    """A transformer layer, norms first (Xiong et al., 2020)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.size = heads, width // heads
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.asked, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.wide = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor, weight: Tensor) -> Tensor:
        """Tokens [B, T, W] that see those of weight 1, [B, T]."""
        y = self.first(x)
        asked, key, value = (self._split(layer(y)) for layer in (self.asked, self.key, self.value))
        # Finite, so that a row without a prompt is no NaN; its result is dropped.
        bias = (1.0 - weight)[:, None, None, :] * -1e4
        look = ((asked @ key.transpose(2, 3)) * self.size**-0.5 + bias).softmax(dim=3)
        x = x + self.out((look @ value).transpose(1, 2).flatten(2))
        out: Tensor = x + self.wide(self.second(x))
        return out

    def _split(self, x: Tensor) -> Tensor:
        parts: Tensor = x.unflatten(2, (self.heads, self.size))  # type: ignore[no-untyped-call]
        return parts.transpose(1, 2)


def folded(student: Compact) -> Compact:
    """A copy for inference whose batch norms are part of the convolutions."""
    import copy

    out = copy.deepcopy(student).eval()
    for module in list(out.modules()):
        if isinstance(module, nn.Sequential) and len(module) == 2 and isinstance(module[1], nn.BatchNorm2d):
            assert isinstance(module[0], nn.Conv2d)
            module[0], module[1] = fuse_conv_bn_eval(module[0], module[1]), nn.Identity()
    return out
