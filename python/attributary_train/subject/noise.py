"""Noise that belongs to what is noised, never to where it stands in a batch.

Losses before and after unlearning must meet the same noise, whatever the batch size, the order or the subset of items.
A generator that is seeded per batch breaks that; here every (item, caption, timestep, draw) has a stream of its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


def noise_key(item: int, caption: str) -> bytes:
    """16 bytes that name an item with one of its captions."""
    return hashlib.blake2b(f"{item}\t{caption}".encode(), digest_size=16).digest()


def noise_for(key: bytes, timestep: int, shape: Sequence[int], draw: int = 0) -> npt.NDArray[np.float32]:
    """Standard normal noise, float32 of `shape`, the same for ever for (key, timestep, draw).

    Philox is a counter-based generator (Salmon et al., 2011): the key picks the stream, no state is shared.
    """
    seed = hashlib.blake2b(
        key + timestep.to_bytes(4, "little") + draw.to_bytes(4, "little"), digest_size=16
    ).digest()
    stream = np.random.Generator(np.random.Philox(key=np.frombuffer(seed, np.uint64)))
    return stream.standard_normal(tuple(shape), np.float32)


def noise_grid(
    keys: Sequence[bytes], timesteps: Sequence[int], shape: Sequence[int], draw: int = 0
) -> Tensor:
    """float32 [N, T, *shape]: the noise of every key at every timestep."""
    out = np.empty((len(keys), len(timesteps), *shape), np.float32)
    for row, key in enumerate(keys):
        for column, step in enumerate(timesteps):
            out[row, column] = noise_for(key, step, shape, draw)
    return torch.from_numpy(out)
