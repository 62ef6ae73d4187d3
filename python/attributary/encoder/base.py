"""What an encoder is: pixels and an optional prompt in, one unit vector out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from attributary.bundle.manifest import EncoderEntry


@dataclass(frozen=True, slots=True)
class EncoderSpec:
    """Facts about an encoder that its callers and the bundle's manifest need."""

    name: str  # for people, e.g. "efficientnet-lite0+minilm"
    digest: str  # SHA-256 of the ONNX file, hex: the identity that vectors are bound to
    dim: int  # D, dimensions of an embedding
    image_size: int  # side of the square input, pixels
    max_tokens: int  # T at most
    lengths: bool = False  # items' lengths lie in the last dimension, which queries have as 0

    @classmethod
    def of(cls, entry: EncoderEntry) -> EncoderSpec:
        """What a bundle's manifest says of its encoder."""
        return cls(entry.name, entry.digest, entry.dim, entry.image_size, entry.max_tokens, entry.lengths)


class Encoder(Protocol):
    """Turns prepared queries into embeddings. Implementations are safe to call from several threads."""

    @property
    def spec(self) -> EncoderSpec:
        """The encoder's facts."""
        ...

    def encode(
        self,
        pixels: NDArray[np.uint8],
        token_ids: NDArray[np.int64],
        token_mask: NDArray[np.int64],
    ) -> NDArray[np.float32]:
        """Embed a batch.

        `pixels` is uint8 RGB [B, S, S, 3] with S = spec.image_size; `token_ids` and `token_mask` are int64
        [B, T], T >= 1. A row whose mask is all zero has no prompt. Returns float32 [B, D], rows of unit
        length.
        """
        ...

    def encode_items(
        self,
        pixels: NDArray[np.uint8],
        token_ids: NDArray[np.int64],
        token_mask: NDArray[np.int64],
    ) -> NDArray[np.float32]:
        """Place pictures with their captions as items of a bundle; shapes as `encode`'s.

        What `encode` gives, unless the encoder has items elsewhere: some speak louder than others, whoever asks.
        """
        ...
