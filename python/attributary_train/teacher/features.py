"""Raw-feature similarity: what looks or reads alike. No gradient, and no word about what the model learned from.

Both sides are seen at the same resolution: a query as the autoencoder decodes it, a training item as the square that
the autoencoder was given. Otherwise sharpness alone would tell training images from generated ones.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from attributary.kernels import resize_crop
from attributary_train.errors import SubjectError, TeacherError
from attributary_train.generators.latents import decode
from attributary_train.subject.checkpoint import load_autoencoder
from attributary_train.subject.data import SubjectData
from attributary_train.subject.model import SubjectModel
from attributary_train.subject.pictures import squares
from attributary_train.subject.queries import Queries
from attributary_train.teacher.method import Method
from attributary_train.teacher.registry import Context
from attributary_train.towers.features import TowerFeatures

Kind = Literal["image", "text", "joined", "pixels"]
Pictures = npt.NDArray[np.uint8]
# Pictures that are read at a time.
_PART = 512


class RawFeatures(Method):
    """Cosine of untuned features, or the negative mean squared difference of pixels.

    `image`: EfficientNet-lite0; `text`: MiniLM of the prompts; `joined`: both, each scaled to unit length before they
    are put side by side, so that the cosine is the mean of the two; `pixels`: values in [0, 1]. Of an item with several
    captions the most similar one counts.
    `pictures`: uint8 [N, S, S, 3] of the items `ids`. `towers` may be None for pixels.
    """

    def __init__(
        self,
        kind: Kind,
        towers: TowerFeatures | None,
        autoencoder: AutoencoderKL,
        pictures: Pictures,
        ids: Sequence[int],
    ) -> None:
        super().__init__()
        if kind not in get_args(Kind):
            raise TeacherError("kind", f"{kind!r}; there are {', '.join(get_args(Kind))}")
        if len(pictures) != len(ids):
            raise TeacherError("pictures", f"{len(pictures)} for {len(ids)} ids")
        if towers is None and kind != "pixels":
            raise TeacherError("towers", f"are missing; {kind} features come from them")
        self.kind, self.name = kind, kind
        self._towers, self._autoencoder = towers, autoencoder
        self._pictures, self._ids = pictures, ids
        self._stored = torch.empty(0)
        self._several: tuple[Tensor, Tensor] | None = None

    def _prepare(self, data: SubjectData, model: SubjectModel) -> float:
        where = {int(number): row for row, number in enumerate(self._ids)}
        missing = [int(number) for number in data.ids if int(number) not in where]
        if missing:
            raise SubjectError(
                "corpus", f"has no picture of {len(missing)} training items, e.g. {missing[0]}"
            )
        rows = [where[int(number)] for number in data.ids]
        captions = data.captions if self.kind in ("text", "joined") else None
        if captions is None:
            self._several = None
            self._stored = self._by_parts(rows, lambda part, at: self._features(part, data.prompts[at]))
        else:
            joined = self.kind == "joined"
            self._stored = (
                self._by_parts(rows, lambda part, at: self._pictures_of(part))
                if joined
                else torch.zeros(len(data), 0)
            )
            self._several = self._texts_of(captions.prompts), captions.of_item
        # Pixels are bytes where they are stored; the floats are for the sum.
        return float(self._stored.numel() * (1 if self.kind == "pixels" else 4))

    def _by_parts(self, rows: Sequence[int], of: Callable[[Pictures, slice], Tensor]) -> Tensor:
        """Features of the stored pictures' rows: those of a large set are more than memory holds."""
        parts = []
        for start in range(0, len(rows), _PART):
            at = slice(start, start + _PART)
            parts.append(of(np.asarray(self._pictures[rows[at]]), at))
        return torch.cat(parts)

    def _matrix(self, queries: Queries, rows: npt.NDArray[np.int64]) -> tuple[Tensor, int]:
        needs_pictures = self.kind != "text"
        pictures = decode(self._autoencoder, queries.latents) if needs_pictures else np.empty(0, np.uint8)
        stored = self._stored[rows]
        if self._several is not None:
            texts, of_item = self._several
            alike = (self._texts_of(queries.prompts) @ texts.T)[:, of_item[rows]].amax(dim=2)
            if self.kind == "text":
                return alike, 0
            return (alike + self._pictures_of(pictures) @ stored.T) / 2, 0
        queried = self._features(pictures, queries.prompts)
        if self.kind == "pixels":
            # |a - b|^2 by its parts; centred values keep float32 exact enough.
            squared = queried.square().sum(1)[:, None] + stored.square().sum(1) - 2.0 * queried @ stored.T
            distance: Tensor = squared.clamp(min=0) / queried.shape[1]
            return -distance, 0
        return queried @ stored.T, 0

    def _features(self, pictures: Pictures, prompts: Sequence[str]) -> Tensor:
        """Rows of unit length (of centred values for pixels), float32."""
        if self.kind == "pixels":
            return torch.from_numpy(pictures.reshape(len(pictures), -1)).float() / 255.0 - 0.5
        assert self._towers is not None
        unit = []
        if self.kind in ("image", "joined"):
            unit.append(self._pictures_of(pictures))
        if self.kind in ("text", "joined"):
            unit.append(self._texts_of(prompts))
        both: Tensor = torch.cat(unit, dim=1) / len(unit) ** 0.5
        return both

    def _pictures_of(self, pictures: Pictures) -> Tensor:
        assert self._towers is not None
        size = self._towers.image_tower.image_size
        keys = [hashlib.sha256(picture.tobytes()).hexdigest() for picture in pictures]
        found = self._towers.images(keys, lambda row: resize_crop(np.ascontiguousarray(pictures[row]), size))
        return torch.nn.functional.normalize(torch.from_numpy(found), dim=1)

    def _texts_of(self, prompts: Sequence[str]) -> Tensor:
        assert self._towers is not None
        return torch.nn.functional.normalize(torch.from_numpy(self._towers.texts(prompts)), dim=1)


def _make(context: Context, kind: Kind) -> RawFeatures:
    autoencoder = load_autoencoder(context.subject)
    size = int(autoencoder.config.sample_size)
    towers = None
    if kind != "pixels":
        towers = TowerFeatures(context.cache / "features", threads=context.threads)
    pictures = squares(context.corpus, size, context.cache)
    return RawFeatures(kind, towers, autoencoder, pictures, [item.id for item in context.corpus])


def image(context: Context) -> RawFeatures:
    """Similarity of image features."""
    return _make(context, "image")


def text(context: Context) -> RawFeatures:
    """Similarity of prompts."""
    return _make(context, "text")


def joined(context: Context) -> RawFeatures:
    """Similarity of image and prompt together."""
    return _make(context, "joined")


def pixels(context: Context) -> RawFeatures:
    """Similarity of pixels."""
    return _make(context, "pixels")
