"""Pictures that no generator made, and where the compact student puts them: far from every item.

Outlier exposure (Hendrycks et al., ICLR 2019): shown what is foreign while it learns, a network answers low cosines for
it, which is what the served out-of-distribution flag looks at. Made on the fly, of kinds that share no source with the
foreign sets that the flag is measured on.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

# Tiles of a shuffled picture, and the side of a crop that is too small to say what it is of.
_TILE, _CROP = 8, 12


def nowhere(items: Tensor) -> Tensor:
    """The direction that item vectors float32 [N, D] have least of, float32 [D], unit length."""
    # eigh sorts upwards, so the first is the smallest.
    least: Tensor = torch.linalg.eigh(items.T @ items).eigenvectors[:, 0].contiguous()
    return least


def foreign_pictures(own: Tensor, count: int) -> Tensor:
    """`count` foreign pictures, uint8 [count, S, S, 3], from generated ones uint8 [B, S, S, 3]: noise, surfaces
    over a gradient, shuffled tiles of several pictures, small crops enlarged; in turn. Uses torch's random state."""
    makers = (_noise, _surfaces, _shuffled, _crops)
    shares = [(make, len(range(first, count, len(makers)))) for first, make in enumerate(makers)]
    # Some libraries refuse to transform nothing.
    parts = [make(own, share) for make, share in shares if share]
    return torch.cat([own[:0].float(), *parts]).clamp(0.0, 255.0).round().to(torch.uint8)


def _noise(own: Tensor, count: int) -> Tensor:
    """Spectra 1/f^a, a from 0.5 (fine) to 2.5 (clouds), grey to coloured."""
    size = own.shape[1]
    rows, columns = torch.fft.fftfreq(size)[:, None], torch.fft.rfftfreq(size)[None]
    frequency = (rows.square() + columns.square()).sqrt().clamp(min=1.0 / size)
    power = 0.5 + 2.0 * torch.rand(count, 1, 1, 1)
    waves = torch.fft.irfft2(
        torch.fft.rfft2(torch.randn(count, 3, size, size)) / frequency**power, s=(size, size)
    )
    colour = torch.rand(count, 1, 1, 1)
    waves = colour * waves + (1.0 - colour) * waves.mean(1, keepdim=True)
    waves = (waves - waves.mean((2, 3), keepdim=True)) / waves.std((1, 2, 3), keepdim=True).clamp(min=1e-6)
    level = 50.0 + 155.0 * torch.rand(count, 3, 1, 1)
    out: Tensor = level + waves * (10.0 + 50.0 * torch.rand(count, 1, 1, 1))
    return out.permute(0, 2, 3, 1)


def _surfaces(own: Tensor, count: int) -> Tensor:
    """A gradient from top to bottom with half-planes and fine grain over it."""
    size = own.shape[1]
    place = torch.linspace(-1.0, 1.0, size)
    ends = 255.0 * torch.rand(count, 2, 1, 1, 3)
    down = ((place + 1.0) / 2.0)[None, :, None, None]
    out = (ends[:, 0] * (1.0 - down) + ends[:, 1] * down).expand(count, size, size, 3).clone()
    for _ in range(4):
        angle, offset = 6.2832 * torch.rand(count, 1, 1), 1.6 * torch.rand(count, 1, 1) - 0.4
        ridge = 0.1 * torch.sin(place[None, None] * (2.0 + 10.0 * torch.rand(count, 1, 1)))
        inside = angle.cos() * place[None, None] + angle.sin() * place[None, :, None] + ridge > offset
        out = torch.where(inside[..., None], 255.0 * torch.rand(count, 1, 1, 3), out)
    return out + torch.randn(out.shape) * 20.0 * torch.rand(count, 1, 1, 1)


def _shuffled(own: Tensor, count: int) -> Tensor:
    """Tiles of four generated pictures each, in random places."""
    grid = own.shape[1] // _TILE
    chosen = own[torch.randint(0, len(own), (count, 4))].float()
    tiles: Tensor = chosen.unflatten(3, (grid, _TILE))  # type: ignore[no-untyped-call]
    tiles = tiles.unflatten(2, (grid, _TILE))  # type: ignore[no-untyped-call]
    tiles = tiles.permute(0, 1, 2, 4, 3, 5, 6).flatten(1, 3)
    picked = torch.rand(count, tiles.shape[1]).argsort(1)[:, : grid * grid]
    tiles = tiles[torch.arange(count)[:, None], picked].unflatten(1, (grid, grid))  # type: ignore[no-untyped-call]
    return tiles.permute(0, 1, 3, 2, 4, 5).flatten(3, 4).flatten(1, 2)


def _crops(own: Tensor, count: int) -> Tensor:
    """A few pixels of a generated picture, enlarged, in other colours."""
    size = own.shape[1]
    chosen = own[torch.randint(0, len(own), (count,))].float().permute(0, 3, 1, 2)
    corner = torch.randint(size // 4, 3 * size // 4 - _CROP, (2, count))
    rows, columns = (one[:, None] + torch.arange(_CROP) for one in corner)
    crop = chosen[torch.arange(count)[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(
        0, 3, 1, 2
    )
    large = F.interpolate(crop, size=(size, size), mode="bicubic", align_corners=False)
    tint = torch.rand(count, 3, 1, 1) + 0.3
    large = large * tint + torch.randn(large.shape) * 12.0
    return large.permute(0, 2, 3, 1)
