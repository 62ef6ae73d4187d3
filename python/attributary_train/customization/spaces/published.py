"""Published encoders from a local path: the papers' set, and whatever timm and open_clip can build."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from attributary_train.customization.spaces.base import Features, Pictures, fingerprint, in_parts, resized
from attributary_train.customization.spaces.vit_checkpoint import load_vit, read_state
from attributary_train.errors import CustomizationError
from attributary_train.files import reading

Statistics = tuple[tuple[float, float, float], tuple[float, float, float]]
IMAGENET: Statistics = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALVES: Statistics = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
CLIP: Statistics = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
# SSCD's authors compare at 288 pixels (Pizzi et al., CVPR 2022).
_SSCD_SIZE = 288
# Weights of a transformers' folder that the features do not come from.
_UNREAD = ("pooler.", "embeddings.mask_token")
# Kinds of transformers whose last states begin with the class token.
_CLASS_TOKEN_FIRST = ("vit", "deit", "dinov2", "dinov2_with_registers")
# As timm and open_clip name the weights in a folder.
_WEIGHTS = (
    "model.safetensors",
    "pytorch_model.bin",
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.bin",
)


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
        if net.config.model_type not in _CLASS_TOKEN_FIRST:
            known = ", ".join(_CLASS_TOKEN_FIRST)
            raise CustomizationError(str(path), f"holds a {net.config.model_type}; there are {known}")
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
        net = torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]
    except (RuntimeError, ValueError, OSError) as error:
        raise CustomizationError(
            str(path), f"not a TorchScript file: {str(error).splitlines()[0]}"
        ) from error
    return TorchSpace(name, net, _as_is, _SSCD_SIZE, IMAGENET)


def timm(name: str, path: Path, architecture: str) -> TorchSpace:
    """Any architecture of timm, its pooled features, from a file of weights or a folder as timm writes it.

    Statistics and size are those of the folder's config.json, else the architecture's own.
    """
    _need("timm", name)
    import timm as library  # type: ignore[import-not-found, unused-ignore]

    net = _built(name, lambda: library.create_model(architecture, pretrained=False, num_classes=0))
    # Published weights hold the classifier that features go without.
    heads = getattr(net, "pretrained_cfg", {}).get("classifier") or ()
    heads = (heads,) if isinstance(heads, str) else tuple(heads)
    _fill(net, _weights_of(path), tuple(f"{head}." for head in heads))
    facts = _config_of(path, "config.json").get("pretrained_cfg", {})
    given = {key: facts[key] for key in ("input_size", "mean", "std") if facts.get(key)}
    config = library.data.resolve_data_config(given, model=net)
    return TorchSpace(
        name, net, _as_is, int(config["input_size"][1]), (tuple(config["mean"]), tuple(config["std"]))
    )


def open_clip(name: str, path: Path, architecture: str) -> TorchSpace:
    """Any architecture of open_clip, its projected picture features, from a file or a folder as open_clip writes it.

    Statistics are those of the folder's open_clip_config.json, else those that the architecture's published weights
    have (SigLIP's are not CLIP's).
    """
    _need("open_clip", name)
    import open_clip as library  # type: ignore[import-not-found, unused-ignore]

    net = _built(name, lambda: library.create_model(architecture))
    _fill(net, _weights_of(path))
    size = net.visual.image_size
    facts = _config_of(path, "open_clip_config.json").get("preprocess_cfg", {})
    if not facts:
        tags = library.list_pretrained_tags_by_model(architecture)
        facts = library.get_pretrained_cfg(architecture, tags[0]) if tags else {}
    statistics = (
        (tuple(facts["mean"]), tuple(facts["std"])) if facts.get("mean") and facts.get("std") else CLIP
    )
    return TorchSpace(name, net.visual, _as_is, size if isinstance(size, int) else int(size[0]), statistics)


def _built(name: str, build: Callable[[], Any]) -> Any:
    try:
        return build()
    except (RuntimeError, ValueError) as error:
        raise CustomizationError(f"space {name}", str(error).splitlines()[0]) from error


def _weights_of(path: Path) -> Path:
    """The file of weights: `path`, or the first known one in a folder."""
    if path.is_file():
        return path
    found = next((path / name for name in _WEIGHTS if (path / name).is_file()), None)
    if found is None:
        raise CustomizationError(str(path), f"holds none of {', '.join(_WEIGHTS)}")
    return found


def _config_of(path: Path, name: str) -> dict[str, Any]:
    """What a folder's file of that name says; nothing where there is none."""
    file = path / name
    if not file.is_file():
        return {}
    with reading(file, CustomizationError, "cannot be read"):
        return dict(json.loads(file.read_text(encoding="utf-8")))


def _pretrained(kind: Any, path: Path) -> Any:
    """A model of transformers whose every weight came from the folder."""
    try:
        net, about = kind.from_pretrained(path, local_files_only=True, output_loading_info=True)
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise CustomizationError(str(path), f"not a folder of {kind.__name__}: {reason}") from error
    # What the folder lacks is drawn at random; published vision transformers go without a pooler, which nobody reads.
    missing = sorted(name for name in about["missing_keys"] if not name.startswith(_UNREAD))
    if missing:
        raise CustomizationError(
            str(path), f"not a folder of {kind.__name__}: lacks {missing[0]} and {len(missing) - 1} more"
        )
    return net.requires_grad_(False)


def _fill(net: nn.Module, path: Path, without: tuple[str, ...] = ()) -> None:
    """Take every weight from a file; those whose names begin as `without` says are left."""
    state = {
        key: value for key, value in read_state(path).items() if not without or not key.startswith(without)
    }
    try:
        net.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise CustomizationError(str(path), f"does not fit: {reason}") from error


def _need(module: str, name: str) -> None:
    if find_spec(module) is None:
        raise CustomizationError(
            f"space {name}",
            f"needs {module}, which is not installed; it comes with a torchvision, which must fit torch "
            f"{torch.__version__}",
        )
