"""Changed copies of a picture: recoloured, cropped, rotated, mirrored, compressed."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

Picture = NDArray[np.uint8]


def recoloured(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Hue turned by 20 to 60 degrees either way, saturation times 0.6 to 1.4, brightness times 0.8 to 1.2."""
    hue, saturation, value = image.convert("HSV").split()
    turn = int(rng.choice([-1, 1]) * rng.uniform(20, 60) * 256 / 360)
    hue = hue.point([(level + turn) % 256 for level in range(256)])
    turned = Image.merge("HSV", (hue, saturation, value)).convert("RGB")
    faded = ImageEnhance.Color(turned).enhance(rng.uniform(0.6, 1.4))
    return ImageEnhance.Brightness(faded).enhance(rng.uniform(0.8, 1.2))


def cropped(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A window of 70 to 90% of each side, anywhere."""
    width, height = (max(1, round(side * rng.uniform(0.7, 0.9))) for side in image.size)
    left = int(rng.integers(0, image.width - width + 1))
    top = int(rng.integers(0, image.height - height + 1))
    return image.crop((left, top, left + width, top + height))


def rotated(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Turned by 5 to 25 degrees either way, over white."""
    angle = float(rng.choice([-1, 1]) * rng.uniform(5, 25))
    return image.rotate(angle, Image.Resampling.BICUBIC, fillcolor="white")


def mirrored(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Left and right exchanged."""
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def compressed(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """JPEG of quality 10 to 40, 4:2:0."""
    buffer = BytesIO()
    image.save(buffer, "JPEG", quality=int(rng.integers(10, 41)), subsampling=2)
    return Image.open(buffer)


KINDS: dict[str, Callable[[Image.Image, np.random.Generator], Image.Image]] = {
    "recoloured": recoloured,
    "cropped": cropped,
    "rotated": rotated,
    "mirrored": mirrored,
    "compressed": compressed,
}


def changed_copy(picture: Picture, kind: str, seed: int) -> Picture:
    """A copy of uint8 RGB [H, W, 3] changed in one of `KINDS`; the same seed gives the same copy."""
    # The kind is part of the seed, or all kinds would draw the same numbers.
    rng = np.random.default_rng([seed, list(KINDS).index(kind)])
    return np.asarray(KINDS[kind](Image.fromarray(picture), rng).convert("RGB"))
