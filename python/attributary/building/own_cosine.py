"""How near a picture is to the item that it would be itself, where items have lengths: no query is nearer to any.

Such an encoder makes an item of what an embedding has apart from the mean of all items, so an embedding that is nothing
but that is nearer to an item than the item's own picture. The mean is in no file. But the lines from embeddings of
pictures along what the pictures are as items all meet in it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from attributary.encoder.base import Encoder
from attributary.encoder.text import PromptTokenizer

from .embed import Probes, encode

# How far from where they meet lines may pass; an encoder whose lines do not meet makes items in another way.
_MEET = 1e-3
_BATCH = 16


def own_cosine(
    encoder: Encoder, tokenizer: PromptTokenizer, probes: Probes, vectors: NDArray[np.float16]
) -> float:
    """The cosine of an item's own picture with the item's direction, the largest of all [N, D]; 0: not known."""
    if not encoder.spec.lengths:
        return 0.0
    prepared = list(zip(probes.pixels, probes.tokens, strict=True))
    parts = [
        encode(encoder.encode_items, tokenizer, prepared[at : at + _BATCH])
        for at in range(0, len(prepared), _BATCH)
    ]
    along = _directions(np.concatenate(parts))
    across = np.eye(along.shape[1]) - along[:, :, None] * along[:, None, :]
    passed = (across @ probes.embeddings[:, :, None].astype(np.float64))[:, :, 0]
    mean = np.linalg.lstsq(across.sum(axis=0), passed.sum(axis=0), rcond=1e-6)[0]
    if np.linalg.norm(across @ mean - passed, axis=1).max() > _MEET:
        return 0.0
    # An item's own picture lies on the line through the mean as well, and has unit length.
    squares = (_directions(vectors) @ mean) ** 2 + 1.0 - mean @ mean
    return round(float(np.sqrt(max(squares.max(), 0.0))), 6)


def _directions(items: NDArray[np.floating]) -> NDArray[np.float64]:
    """Unit vectors without what is in the last dimension."""
    apart = items.astype(np.float64)
    apart[:, -1] = 0.0
    unit: NDArray[np.float64] = apart / np.maximum(np.linalg.norm(apart, axis=1, keepdims=True), 1e-9)
    return unit
