"""How near a picture is to the item that it would be itself, where items have lengths: no query is nearer to any.

Such an encoder makes an item of what an embedding has apart from something that all pictures share (a part of the
items' mean), so an embedding that is nothing but that is nearer to an item than the item's own picture. What is shared
is in no file. But it lies in the plane of every picture's embedding and what the picture is as an item.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from attributary.encoder.base import Encoder
from attributary.encoder.text import PromptTokenizer

from .embed import Probes, encode

# How far what is shared may lie outside a plane; an encoder whose planes do not meet makes items in another way.
_MEET = 1e-2
# A picture that is as good as the item that it would be says nothing of what is shared.
_SAME = 0.999
_BATCH = 16
Doubles = NDArray[np.float64]


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
    queries, items = probes.embeddings.astype(np.float64), _directions(np.concatenate(parts))
    apart = np.einsum("nd,nd->n", queries, items) < _SAME
    if int(apart.sum()) < 2:
        return 0.0
    shared = _shared(queries[apart], items[apart])
    if shared is None:
        return 0.0
    # An item is a query times a number less what is shared; by how much the query is the longer of the two.
    most = max(_longer(query, item, shared) for query, item in zip(queries[apart], items[apart], strict=True))
    if most == 0.0:
        return 0.0
    squares = 1.0 - (1.0 - np.square(_directions(vectors) @ shared)) / most**2
    return round(float(np.sqrt(max(squares.max(), 0.0))), 6)


def _shared(queries: Doubles, items: Doubles) -> Doubles | None:
    """The unit vector [D] in all planes of queries and items [n, D], None if there is none."""
    across = items - np.einsum("nd,nd->n", queries, items)[:, None] * queries
    across /= np.linalg.norm(across, axis=1, keepdims=True)
    inside = queries.T @ queries + across.T @ across
    found = np.linalg.eigh(inside).eigenvectors[:, -1]
    outside = 1.0 - np.square(queries @ found) - np.square(across @ found)
    if float(outside.max()) > _MEET**2:
        return None
    # Items have less of it than queries.
    return found if float(((queries - items) @ found).mean()) > 0 else -found


def _longer(query: Doubles, item: Doubles, shared: Doubles) -> float:
    """n of item = t (n query - shared), in the plane of the three; 0 where no such n is."""
    found = np.linalg.lstsq(np.stack([query, -shared], axis=1), item, rcond=None)[0]
    return float(found[0] / found[1]) if found.min() > 1e-6 else 0.0


def _directions(items: NDArray[np.floating]) -> Doubles:
    """Unit vectors without what is in the last dimension."""
    apart = items.astype(np.float64)
    apart[:, -1] = 0.0
    unit: Doubles = apart / np.maximum(np.linalg.norm(apart, axis=1, keepdims=True), 1e-9)
    return unit
