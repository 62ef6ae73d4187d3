"""Published encoders from a local path: the papers' set, and whatever timm and open_clip can build."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from attributary_train.customization.errors import CustomizationError
from attributary_train.customization.spaces.base import Features, Pictures, fingerprint, in_parts, resized
from attributary_train.customization.spaces.vit_checkpoint import load_vit, read_state

Statistics = tuple[tuple[float, float, float], tuple[float, float, float]]
IMAGENET: Statistics = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALVES: Statistics = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
CLIP: Statistics = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
# SSCD's authors compare at 288 pixels (Pizzi et al., CVPR 2022).
_SSCD_SIZE = 288


class TorchSpace:
    """A network of torch behind the protocol: normalised pixels [B, 3, S, S] in, [B, D] out."""

    reads_text = False

    def __init__(
        self, name: str, net: nn.Module, read: Callable[[Any], Tensor], size: int, statistics: Statistics
    ) -> None:
        self.name, self._net, self._read, self._size = name, net.eval(), read, size
        self._mean, self._deviation = (torch.tensor(values)[:, None, None] for values in statistics)
        raw = [value.detach().float().numpy().tobytes() for value in net.state_dict().values()]
        self.identity = f"{name.partition('=')[0]}-{size}-{fingerprint(*raw)}"
        self.dim = int(self._run(torch.zeros((1, 3, size, size))).shape[1])

    def features(self, pictures: Pictures, texts: Sequence[str]) -> Features:
        """Rows of the network's own features."""
        return in_parts(self._part, pictures, texts)

    def _part(self, pictures: Pictures, texts: Sequence[str]) -> Features:
        pixels = torch.from_numpy(resized(pictures, self._size)).permute(0, 3, 1, 2).float() / 255.0
        return self._run((pixels - self._mean) / self._deviation).numpy()

    @torch.inference_mode()
    def _run(self, pixels: Tensor) -> Tensor:
        return self._read(self._net(pixels)).float()


def _first_token(answer: Any) -> Tensor:
    token: Tensor = answer.last_hidden_state[:, 0]
    return token


def _as_is(answer: Any) -> Tensor:
    found: Tensor = answer if isinstance(answer, Tensor) else answer[0]
    return found


def vit(name: str, path: Path, statistics: Statistics) -> TorchSpace:
    """DINO, DINOv2, MoCo-v3 or a supervised ViT: the class token after the last norm."""
    if path.is_dir():
        from transformers import AutoModel

        net = _pretrained(AutoModel, path)
        return TorchSpace(name, net, _first_token, min(int(net.config.image_size), 224), statistics)
    net, size = load_vit(path)
    return TorchSpace(name, net, _first_token, size, statistics)


def clip(name: str, path: Path) -> TorchSpace:
    """CLIP's picture tower with its projection, from a folder in transformers' layout."""
    from transformers import CLIPVisionModelWithProjection

    net = _pretrained(CLIPVisionModelWithProjection, path)
    return TorchSpace(name, net, lambda answer: answer.image_embeds, int(net.config.image_size), CLIP)


def sscd(name: str, path: Path) -> TorchSpace:
    """SSCD from the TorchScript file that its authors publish."""
    try:
        net = torch.jit.load(str(path), map_location="cpu")
    except (RuntimeError, ValueError, OSError) as error:
        raise CustomizationError(
            str(path), f"not a TorchScript file: {str(error).splitlines()[0]}"
        ) from error
    return TorchSpace(name, net, _as_is, _SSCD_SIZE, IMAGENET)


def timm(name: str, path: Path, architecture: str) -> TorchSpace:
    """Any architecture of timm, its pooled features; statistics and size are the architecture's own."""
    _need("timm", name)
    import timm as library  # type: ignore[import-not-found, unused-ignore]

    net = library.create_model(architecture, pretrained=False, num_classes=0)
    _fill(net, path)
    config = library.data.resolve_data_config({}, model=net)
    return TorchSpace(
        name, net, _as_is, int(config["input_size"][1]), (tuple(config["mean"]), tuple(config["std"]))
    )


def open_clip(name: str, path: Path, architecture: str) -> TorchSpace:
    """Any architecture of open_clip, its projected picture features."""
    _need("open_clip", name)
    import open_clip as library  # type: ignore[import-not-found, unused-ignore]

    net = library.create_model(architecture)
    _fill(net, path)
    size = net.visual.image_size
    return TorchSpace(name, net.visual, _as_is, size if isinstance(size, int) else int(size[0]), CLIP)


def _pretrained(kind: Any, path: Path) -> Any:
    try:
        return kind.from_pretrained(path, local_files_only=True).requires_grad_(False)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise CustomizationError(str(path), f"not a folder of {kind.__name__}: {reason}") from error


def _fill(net: nn.Module, path: Path) -> None:
    try:
        net.load_state_dict(read_state(path))
    except RuntimeError as error:
        raise CustomizationError(str(path), f"does not fit: {str(error).splitlines()[0]}") from error


def _need(module: str, name: str) -> None:
    if find_spec(module) is None:
        raise CustomizationError(
            f"space {name}",
            f"needs {module}, which is not installed; it comes with a torchvision, which must fit torch "
            f"{torch.__version__}",
        )
