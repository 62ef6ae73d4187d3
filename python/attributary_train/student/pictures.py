"""A corpus as the student sees it: columns of facts, and pictures prepared for the image tower."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from attributary.kernels import resize_crop
from attributary_train.towers.rows import FloatArray

from ..corpus import Corpus
from .copies import changed_copy
from .retrieval import CopyQueries

_COPY_SIDE = 512  # pixels of the short side; from twice that on, pictures are reduced before they are changed

if TYPE_CHECKING:
    from attributary_train.towers.features import TowerFeatures


class Pictures:
    """The items of a corpus in its own order."""

    def __init__(self, corpus: Corpus) -> None:
        items = list(corpus)
        self._corpus = corpus
        self.ids = [item.id for item in items]
        self.hashes = [item.sha256 for item in items]
        self.captions = [item.caption for item in items]
        self.concepts = [item.concept_id for item in items]
        self.groups = [item.near_dup_group for item in items]

    @classmethod
    def open(cls, folder: Path) -> Pictures:
        """Open the corpus in a folder."""
        return cls(Corpus.open(folder))

    @property
    def own(self) -> bool:
        """Whether there are pictures of a user's own among them."""
        return any(self._corpus.is_own(number) for number in self.ids)

    def __len__(self) -> int:
        return len(self.ids)

    def picture(self, row: int) -> NDArray[np.uint8]:
        """The picture of an item, uint8 RGB [H, W, 3]."""
        return self._corpus.pixels(self.ids[row])

    def prepared(self, row: int, size: int) -> NDArray[np.uint8]:
        """The picture of an item as the tower reads it, uint8 [size, size, 3]."""
        return resize_crop(self.picture(row), size)

    def image_features(self, towers: TowerFeatures) -> FloatArray:
        """Features of every picture, float32 [N, F]."""
        size = towers.image_tower.image_size
        return towers.images(self.hashes, lambda row: self.prepared(row, size))

    def copy_features(self, towers: TowerFeatures, queries: CopyQueries) -> FloatArray:
        """Features of changed copies, float32 [Q, F]."""
        size = towers.image_tower.image_size
        keys = [
            f"{self.hashes[row]}-{kind}-{seed}"
            for row, kind, seed in zip(queries.originals, queries.kinds, queries.seeds, strict=True)
        ]
        return towers.images(keys, lambda i: resize_crop(self.copy(queries, i), size))

    def copy(self, queries: CopyQueries, query: int) -> NDArray[np.uint8]:
        """The changed copy of one query, uint8 RGB [H, W, 3]."""
        picture = self.picture(int(queries.originals[query]))
        if (times := min(picture.shape[:2]) // _COPY_SIDE) > 1:
            # A copy may be of any size; changing all of a camera's pixels would take a second each.
            picture = np.asarray(Image.fromarray(picture).reduce(times))
        return changed_copy(picture, queries.kinds[query], queries.seeds[query])
