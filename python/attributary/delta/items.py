"""New items: checked before any work, embedded by the encoder that made the bundle's own vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attributary.attribution.checks import check_prompt
from attributary.attribution.types import Limits
from attributary.bundle.bundle import Bundle
from attributary.bundle.manifest import Manifest
from attributary.bundle.names import check_line, check_name, same_name
from attributary.encoder.base import Encoder
from attributary.encoder.onnx import OnnxEncoder
from attributary.encoder.text import PromptTokenizer
from attributary.errors import InvalidArgumentError, PreconditionError
from attributary.pictures import ReadPicture, read

MAX_URI_BYTES = 4_096
# As building a bundle from a corpus without licences has it.
NO_LICENCE = "NOASSERTION"
_BATCH = 16


@dataclass(frozen=True, slots=True)
class NewItem:
    """An item to add: `picture` is encoded (JPEG, PNG, WebP, GIF, BMP or AVIF)."""

    id: int
    picture: bytes
    caption: str
    creator: str
    creator_url: str = ""
    licence: str = ""  # SPDX identifier
    uri: str = ""
    near_dup_of: int | None = None  # id of an item that this one shares credit with

    def __post_init__(self) -> None:
        for name in ("creator", "licence"):
            object.__setattr__(self, name, same_name(getattr(self, name)))


def check_item(item: NewItem, limits: Limits) -> None:
    """Raise InvalidArgumentError naming the first field that is missing or too long."""
    if not -(2**63) <= item.id < 2**63:
        raise InvalidArgumentError("item.id", f"must fit 64 bits, got {item.id}")
    for name in ("caption", "creator"):
        if not getattr(item, name).strip():
            raise InvalidArgumentError(f"item.{name}", "must be given")
    check_prompt(item.caption, limits, "item.caption")
    for name in ("creator", "licence"):
        check_name(getattr(item, name), f"item.{name}")
    for name in ("creator_url", "uri"):
        try:
            size = len(getattr(item, name).encode())
        except UnicodeEncodeError:
            raise InvalidArgumentError(f"item.{name}", "must be valid Unicode") from None
        if size > MAX_URI_BYTES:
            raise InvalidArgumentError(f"item.{name}", f"has {size} bytes, the limit is {MAX_URI_BYTES}")
        check_line(getattr(item, name), f"item.{name}")


def check_space(manifest: Manifest) -> None:
    """Raise PreconditionError where the encoder would place an item elsewhere than the bundle's own are."""
    if manifest.vectors_are_trained:
        raise PreconditionError(
            "bundle",
            f"its item vectors were trained with student {manifest.student}, not made by its query encoder: an "
            "item added through the encoder would lie elsewhere and take a multiple of its share. Train a student "
            "with the new items (`attributary-train student train`) and build its bundle; deletions are possible",
        )


class Embedder:
    """Turns items into vectors as the bundle's builder did: the fp32 encoder, picture and caption together."""

    def __init__(self, bundle: Bundle, limits: Limits, encoder: Encoder | None = None) -> None:
        """`encoder` is used if it made the vectors (its int8 form did not); else the bundle's is opened when needed."""
        entry = bundle.manifest.encoder
        self._bundle = bundle
        self.limits = limits
        self._encoder = encoder if encoder is not None and encoder.spec.digest == entry.digest else None
        self._tokenizer = PromptTokenizer.from_file(bundle.tokenizer_path, entry.max_tokens)

    def move(self, bundle: Bundle) -> None:
        """Go on with the same bundle in another directory."""
        self._bundle = bundle

    @property
    def encoder(self) -> Encoder:
        """The encoder that made the bundle's vectors."""
        if self._encoder is None:
            self._encoder = OnnxEncoder(self._bundle.encoder_path, threads=1)
        return self._encoder

    def prepare(self, item: NewItem) -> tuple[ReadPicture, NDArray[np.int64]]:
        """Return the picture with its overview, and tokens of one item; raises InvalidArgumentError."""
        picture = read(
            item.picture,
            self._bundle.manifest.encoder.image_size,
            max_bytes=self.limits.max_image_bytes,
            max_pixels=self.limits.max_image_pixels,
            field="item.image",
            margins=True,
        )
        tokens = self._tokenizer.encode(item.caption, field="item.caption")
        return picture, tokens

    def embed(self, prepared: Sequence[tuple[ReadPicture, NDArray[np.int64]]]) -> NDArray[np.float16]:
        """Return the vectors of prepared items, fp16 [n, D]."""
        vectors = np.empty((len(prepared), self._bundle.manifest.encoder.dim), np.float16)
        for start in range(0, len(prepared), _BATCH):
            part = prepared[start : start + _BATCH]
            ids, mask = self._tokenizer.pad([tokens for _, tokens in part])
            vectors[start : start + len(part)] = self.encoder.encode_items(
                np.stack([picture.pixels for picture, _ in part]), ids, mask
            )
        return vectors
