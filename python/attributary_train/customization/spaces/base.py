"""What a feature space is: pictures, and prompts where it reads any, to rows that are compared by cosine."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from attributary.kernels import resize_crop
from attributary_train.errors import CustomizationError
from attributary_train.towers.cache import FeatureCache

Pictures = npt.NDArray[np.uint8]
Features = npt.NDArray[np.float32]


class Space(Protocol):
    """An encoder of pictures, as `attributary.encoder.Encoder` is one of queries, with any number of dimensions."""

    @property
    def name(self) -> str:
        """For tables, e.g. "efficientnet"."""
        ...

    @property
    def identity(self) -> str:
        """Changes whenever features do: weights, sizes, pooling."""
        ...

    @property
    def dim(self) -> int:
        """D."""
        ...

    @property
    def reads_text(self) -> bool:
        """Whether prompts and captions count."""
        ...

    def features(self, pictures: Pictures, texts: Sequence[str]) -> Features:
        """uint8 [B, S, S, 3] and a text each -> float32 [B, D], of any length."""
        ...


@dataclass(frozen=True)
class Context:
    """What spaces are opened with. `subject`: checkpoint; `student`: a student's folder, or None."""

    cache: Path
    subject: Path | None = None
    student: Path | None = None
    threads: int = 1


def embed(
    space: Space, pictures: Pictures, texts: Sequence[str], cache: Path | None, batch: int = 256
) -> Features:
    """Features of unit length, float32 [N, D]; kept in `cache` by what was looked at.

    Raises `CustomizationError` if a feature is not finite or a row is zero: nothing could be compared with it.
    """
    if len(pictures) != len(texts):
        raise CustomizationError("texts", f"{len(texts)} for {len(pictures)} pictures")

    def compute(rows: Sequence[int]) -> Features:
        return space.features(np.asarray(pictures[list(rows)]), [texts[row] for row in rows])

    if cache is None:
        parts = [compute(range(at, min(at + batch, len(texts)))) for at in range(0, len(texts), batch)]
        found = np.concatenate(parts) if parts else np.zeros((0, space.dim), np.float32)
    else:
        digest = hashlib.sha256(space.identity.encode()).hexdigest()[:16]
        kept = FeatureCache(cache / "spaces", f"{space.name.partition('=')[0]}-{digest}", space.dim)
        keys = [
            hashlib.sha256(
                picture.tobytes() + (b"\t" + text.encode() if space.reads_text else b"")
            ).hexdigest()
            for picture, text in zip(pictures, texts, strict=True)
        ]
        found = kept.rows(keys, compute, batch)
    return unit(found, space.name)


def unit(rows: Features, what: str) -> Features:
    """Scale rows to unit length; raises `CustomizationError` naming `what` for a row that has none."""
    if not np.isfinite(rows).all():
        raise CustomizationError(what, f"{int((~np.isfinite(rows)).sum())} features are not finite")
    length = np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    if rows.size and float(length.min()) < 1e-12:
        raise CustomizationError(what, f"{int((length < 1e-12).sum())} rows of features are zero")
    scaled: Features = (rows / length).astype(np.float32)
    return scaled


def resized(pictures: Pictures, size: int) -> Pictures:
    """uint8 [B, S, S, 3] -> uint8 [B, size, size, 3], as a server would prepare them."""
    return np.stack([resize_crop(np.ascontiguousarray(picture), size) for picture in pictures])


def in_parts(
    compute: Callable[[Pictures, Sequence[str]], Features],
    pictures: Pictures,
    texts: Sequence[str],
    size: int = 16,
) -> Features:
    """Run `compute` on `size` pictures at a time: what a network holds in between must fit into memory."""
    parts = range(0, len(pictures), size)
    return np.concatenate([compute(pictures[at : at + size], texts[at : at + size]) for at in parts])


def fingerprint(*parts: bytes) -> str:
    """SHA-256 over parts, hexadecimal, 16 digits."""
    total = hashlib.sha256()
    for part in parts:
        total.update(part)
    return total.hexdigest()[:16]
