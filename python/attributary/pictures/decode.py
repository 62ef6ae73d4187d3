"""Encoded pictures to pixels: bytes that anybody sent, in; uint8 RGB as a person would see it, out."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from io import BytesIO
from time import perf_counter

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.ImageFile import ImageFile
from PIL.PngImagePlugin import PngImageFile

from ..errors import InvalidArgumentError
from ..kernels import resize_crop
from .formats import JPEG, MAX_BYTES, MAX_PIXELS, Format, check_size, damaged, inspect
from .margins import overview
from .orientation import orientation, upright
from .walk import Walked


@dataclass(frozen=True, slots=True)
class ReadPicture:
    """Pixels uint8 [S, S, 3] and the wall milliseconds that decoding and resizing took."""

    pixels: NDArray[np.uint8]
    decode_ms: float
    resize_ms: float
    digest: str = ""  # of all pixels, where it was asked for: `pixels_digest`
    # Where it was asked for, and a side has one colour: `margins.overview`.
    overview: NDArray[np.uint8] | None = None


def decode(
    data: bytes,
    *,
    max_bytes: int = MAX_BYTES,
    max_pixels: int = MAX_PIXELS,
    field: str = "query.image",
) -> NDArray[np.uint8]:
    """Decode a JPEG, PNG, WebP, GIF, BMP or AVIF picture; returns uint8 RGB [H, W, 3], C-contiguous.

    The orientation is applied wherever it stands, transparency is laid over white, 16-bit samples are scaled
    to 8 bits, palettes, grey and CMYK become RGB (by arithmetic: embedded colour profiles are not applied), and
    an animation gives its first frame. `max_bytes` is the length of `data`, `max_pixels` width * height; both
    are checked before any pixel is decoded. Raises `InvalidArgumentError` naming `field` for pictures above
    them and for anything that is not a whole picture of these formats. Safe to call from several threads;
    the decoders release the GIL. `pool.read` bounds time and memory as well.
    """
    data = bytes(data)
    kind, walked = inspect(data, max_bytes, max_pixels, field)
    return decode_walked(kind, walked, max_pixels, field)


def decode_walked(kind: Format, walked: Walked, max_pixels: int, field: str) -> NDArray[np.uint8]:
    """`decode`, for a picture that `inspect` has passed."""
    with damaged(field):
        pixels = _plain_jpeg(walked) if kind is JPEG else None
        if pixels is not None:
            return np.ascontiguousarray(upright(pixels, orientation(walked.info)))
        with kind.opener(BytesIO(walked.data)) as image:
            check_size(kind, *image.size, max_pixels, field)
            if walked.width and image.width * image.height > walked.width * walked.height:
                raise InvalidArgumentError(field, "has two headers that tell different sizes")
            pixels = np.asarray(_over_white(image))
            # Not before: a PNG reads on behind its pixels.
            return np.ascontiguousarray(upright(pixels, orientation(walked.info or image.info)))


def prepare_pixels(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Scale the short side to `size` pixels (antialiased bicubic) and crop the centre.

    `image` is uint8 RGB [H, W, 3]; returns uint8 [size, size, 3]. Raises `InvalidArgumentError` for any other
    dtype or shape.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        shape = list(image.shape)
        raise InvalidArgumentError(
            "query.pixels",
            f"must be uint8 [height, width, 3] of at least one pixel, not {image.dtype} {shape}",
        )
    return resize_crop(image, size)


def prepared(
    pixels: NDArray[np.uint8], size: int, started: float, digest: bool, margins: bool = False
) -> ReadPicture:
    """`prepare_pixels` of a picture whose decoding began at `started`, of `perf_counter`, and has just ended."""
    decoded = perf_counter()
    ready = prepare_pixels(pixels, size)
    seen = overview(pixels) if margins else None
    resized = perf_counter()
    pixels_sha256 = pixels_digest(pixels) if digest else ""
    return ReadPicture(ready, (decoded - started) * 1e3, (resized - decoded) * 1e3, pixels_sha256, seen)


def pixels_digest(pixels: NDArray[np.uint8]) -> str:
    """SHA-256 (hex) of a picture's height, width, channels and RGB bytes, uint8 [H, W, 3]: "64x48x3" and the rows.

    The same for every file that decodes to these pixels.
    """
    digest = hashlib.sha256("x".join(map(str, pixels.shape)).encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()


def _plain_jpeg(walked: Walked) -> NDArray[np.uint8] | None:
    """Pixels of a JPEG in colour or grey; None for CMYK and where Pillow should have a look."""
    if walked.channels not in (1, 3):
        return None
    try:
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(walked.data, colorspace="RGB")
        return pixels
    except ValueError:
        # It also refuses harmless oddities and rare subsamplings; Pillow tells those from a cut-off file.
        return None


def _over_white(image: ImageFile) -> Image.Image:
    """RGB of a picture in any of Pillow's modes, transparency laid over white."""
    if image.mode.startswith("I;16"):
        return _grey16_over_white(image)
    if not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB")
    _fix_transparent_colour(image)
    layered = image.convert("RGBA")
    alpha = layered.getchannel("A")
    if isinstance(image, BmpImageFile) and alpha.getextrema() == (0, 0):
        # Many programs write BMP with an alpha channel that they never filled.
        return layered.convert("RGB")
    canvas = Image.new("RGB", layered.size, "white")
    canvas.paste(layered, mask=alpha)
    return canvas


def _grey16_over_white(image: ImageFile) -> Image.Image:
    samples = np.asarray(image)
    # The upper byte, as Pillow does for 16-bit colour.
    grey = (samples >> 8).astype(np.uint8)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey[samples == transparent] = 255
    return Image.fromarray(grey).convert("RGB")


def _fix_transparent_colour(image: ImageFile) -> None:
    """Bring a PNG's transparent colour to 8 bits; Pillow does so with the samples alone."""
    if not isinstance(image, PngImageFile) or not image.tile:
        return
    raw_mode = image.tile[0].args
    colour = image.info.get("transparency")
    if raw_mode == "RGB;16B" and isinstance(colour, tuple):
        image.info["transparency"] = tuple(value >> 8 for value in colour)
    elif raw_mode in ("L;2", "L;4") and isinstance(colour, int):
        image.info["transparency"] = colour * (85 if raw_mode == "L;2" else 17)
