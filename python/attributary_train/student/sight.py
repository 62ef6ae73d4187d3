"""What a student sees: pictures of queries and items as uint8 squares, and their prompts."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from attributary.kernels import resize_crop
from attributary_train.corpus import Corpus
from attributary_train.errors import StudentError
from attributary_train.generators.latents import decode
from attributary_train.subject.data import SubjectData
from attributary_train.towers.features import TowerFeatures

ItemPictures = Literal["served", "decoded"]
Pictures = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Seen:
    """Tower features of N pictures with prompts.

    image: float32 [N, F]; states: float32 [N, T, D], token states of the prompts; mask: float32 [N, T], 1 where a
    token is, all 0 where there is no prompt.
    """

    image: Tensor
    states: Tensor
    mask: Tensor

    def __len__(self) -> int:
        return len(self.image)

    def take(self, rows: Sequence[int] | npt.NDArray[np.int64]) -> Seen:
        """Some of them."""
        pick = torch.as_tensor(np.asarray(rows, np.int64))
        return Seen(self.image[pick], self.states[pick], self.mask[pick])

    def without_prompt(self) -> Seen:
        """The same pictures without prompts."""
        return Seen(self.image, self.states, torch.zeros_like(self.mask))


def query_pictures(latents: Tensor, autoencoder: AutoencoderKL) -> Pictures:
    """Generated pictures as the generator hands them out, uint8 [Q, S, S, 3]; latents float32 [Q, C, h, w]."""
    return decode(autoencoder, latents)


def item_pictures(
    data: SubjectData, corpus: Corpus, autoencoder: AutoencoderKL, size: int, kind: ItemPictures
) -> Pictures:
    """Pictures of the training items in the order of `data`, uint8 [N, size, size, 3].

    `served`: the corpus's picture through the server's own resize, as an item that is added later arrives; `decoded`:
    its latent through the autoencoder, with the softness of what the generator draws.
    """
    if kind == "decoded":
        return decode(autoencoder, data.latents.float())
    if kind != "served":
        raise StudentError("items", f"{kind!r}; there are {', '.join(get_args(ItemPictures))}")
    return np.stack([resize_crop(corpus.pixels(int(number)), size) for number in data.ids])


def tower_features(towers: TowerFeatures, pictures: Pictures, states: Tensor, mask: Tensor) -> Seen:
    """Image features through the untuned tower, kept by content; `states` float32 [N, T, D] of the subject's own text
    encoder, of which a picture's prompt fills the places where `mask` [N, T] is 1."""
    size = towers.image_tower.image_size
    keys = [hashlib.sha256(picture.tobytes()).hexdigest() for picture in pictures]
    image = towers.images(keys, lambda row: resize_crop(np.ascontiguousarray(pictures[row]), size))
    return Seen(torch.from_numpy(image), states, mask)
