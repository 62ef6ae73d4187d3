"""The same prompts and seeds through another model: how far do the pictures move?"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from diffusers import AutoencoderKL

from attributary.kernels import resize_crop
from attributary_train.errors import EvaluationError
from attributary_train.generators.latents import decode
from attributary_train.subject.model import SubjectModel
from attributary_train.subject.queries import Queries
from attributary_train.subject.sample import sample
from attributary_train.subject.text import token_states
from attributary_train.towers.image import EfficientNetLite0

_BATCH = 16
# What the features are called in tables.
ENCODER = "untuned EfficientNet-lite0"


@dataclass(frozen=True)
class Pictures:
    """Pictures of some queries: pixels uint8 [Q, G, S, S, 3], unit features float32 [Q, G, F]; G pictures a query."""

    pixels: npt.NDArray[np.uint8]
    features: npt.NDArray[np.float32]

    def take(self, rows: Sequence[int]) -> Pictures:
        """The pictures of these queries."""
        return Pictures(self.pixels[list(rows)], self.features[list(rows)])


class Regenerator:
    """Generates queries again under any model, with the sampler settings they were made with.

    `images` pictures a query: the first with the query's own seed, the others with seeds derived from it. More pictures
    lower the part of the variance that one starting noise brings. Text states are those of the prompts, the guidance's
    empty prompt included.
    """

    def __init__(self, queries: Queries, autoencoder: AutoencoderKL, *, images: int = 4) -> None:
        EvaluationError.if_below(1, images=images)
        self.queries, self.images = queries, images
        self._autoencoder = autoencoder
        self._tower = EfficientNetLite0()
        self._empty = token_states([""], queries.text.shape[1])[0].clone()

    def pictures(self, model: SubjectModel, rows: Sequence[int] | None = None) -> Pictures:
        """Generate the queries of these rows, or all."""
        chosen = list(range(len(self.queries))) if rows is None else list(rows)
        some = self.queries.take(chosen)
        seeds = [self._seed(some, at, image) for at in range(len(some)) for image in range(self.images)]
        text = some.text.repeat_interleave(self.images, dim=0)
        latents = sample(model, text, self._empty, seeds, steps=some.steps, guidance=some.guidance)
        pixels = decode(self._autoencoder, latents)
        shape = (len(some), self.images)
        return Pictures(pixels.reshape(*shape, *pixels.shape[1:]), self._features(pixels).reshape(*shape, -1))

    def _seed(self, some: Queries, row: int, image: int) -> int:
        if image == 0:
            return some.seeds[row]
        name = f"{some.names[row]}\t{some.seeds[row]}\t{image}"
        return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "little")

    @torch.inference_mode()
    def _features(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        size = self._tower.image_size
        rows = []
        for at in range(0, len(pixels), _BATCH):
            prepared = np.stack([resize_crop(picture, size) for picture in pixels[at : at + _BATCH]])
            rows.append(self._tower(torch.from_numpy(prepared)))
        found = torch.nn.functional.normalize(torch.cat(rows), dim=1)
        return found.numpy()


@dataclass(frozen=True)
class Change:
    """Of each query: mean squared pixel difference, pixels in [0, 1] (more = moved further), and mean cosine of the
    frozen encoder's features (less = moved further); float64 [Q]."""

    mse: npt.NDArray[np.float64]
    similarity: npt.NDArray[np.float64]


def change(before: Pictures, after: Pictures) -> Change:
    """Compare pictures of the same queries and seeds under two models."""
    if before.pixels.shape != after.pixels.shape:
        raise EvaluationError(
            "pictures", f"shapes {before.pixels.shape} and {after.pixels.shape}; must be the same"
        )
    moved = (before.pixels.astype(np.float64) - after.pixels.astype(np.float64)) / 255.0
    cosine = (before.features.astype(np.float64) * after.features.astype(np.float64)).sum(axis=-1)
    return Change((moved**2).mean(axis=(1, 2, 3, 4)), cosine.mean(axis=1))
