"""Attribution methods by name; a method's module is imported when it is asked for, not before."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from attributary_train.corpus import Corpus
from attributary_train.errors import TeacherError
from attributary_train.teacher.base import Attributor


@dataclass(frozen=True)
class Context:
    """What a method may need besides `fit`'s arguments: the checkpoint's folder (its autoencoder), the corpus (its
    pictures and captions), a folder for what may be kept between runs, how many threads to use, and where unlearning
    runs. Methods of gradients run where the denoiser is."""

    subject: Path
    corpus: Corpus
    cache: Path
    threads: int = 1
    device: str = "cpu"


Factory = Callable[..., Attributor]

# Name -> "module:factory". A factory is called as factory(context, **settings) and returns an unfitted Attributor.
METHODS: dict[str, str] = {
    "abu": "attributary_train.teacher.unlearning:abu",
    "abu+": "attributary_train.teacher.unlearning:abu_plus",
    "abu-sgd": "attributary_train.teacher.unlearning:abu_sgd",
    "random": "attributary_train.teacher.chance:chance",
    "image": "attributary_train.teacher.features:image",
    "text": "attributary_train.teacher.features:text",
    "joined": "attributary_train.teacher.features:joined",
    "pixels": "attributary_train.teacher.features:pixels",
    "middle_block": "attributary_train.teacher.middle_block:middle_block",
    "trak": "attributary_train.teacher.trak:trak",
    "dtrak": "attributary_train.teacher.dtrak:dtrak",
    "das": "attributary_train.teacher.das:das",
    "journey_trak": "attributary_train.teacher.journey_trak:journey_trak",
    "logra": "attributary_train.teacher.logra:logra",
    "ekfac_influence": "attributary_train.teacher.ekfac_influence:ekfac_influence",
}


def create(name: str, context: Context, settings: Mapping[str, Any] | None = None) -> Attributor:
    """Make an unfitted method; raises `TeacherError` for an unknown name or setting, or a package that is missing."""
    if name not in METHODS:
        raise TeacherError("method", f"{name!r} is unknown; there are {', '.join(sorted(METHODS))}")
    module, _, attribute = METHODS[name].partition(":")
    try:
        factory: Factory = getattr(import_module(module), attribute)
    except ImportError as error:
        raise TeacherError(f"method {name}", f"cannot be loaded: {error}") from error
    try:
        return factory(context, **(settings or {}))
    except TypeError as error:
        raise TeacherError(f"method {name}", f"does not take these settings: {error}") from error
