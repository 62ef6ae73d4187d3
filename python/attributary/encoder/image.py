"""Encoded pictures to pixels: bytes that a stranger sent, in; uint8 RGB as a person would see it, out."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, ImageChops
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from ..errors import InvalidArgumentError
from ..kernels import resize_crop
from .headers import exif_orientation, gif_size, split_exif, webp_size

FORMATS = "JPEG, PNG, WebP, GIF or BMP"


# What an encoded picture may cost, unless the caller says otherwise.
MAX_BYTES = 20 * 1024 * 1024
MAX_PIXELS = 50_000_000
# Passes of a progressive JPEG: each is a walk over the whole picture, for a few bytes of file.
MAX_SCANS = 100


def decode(
    data: bytes,
    *,
    max_bytes: int = MAX_BYTES,
    max_pixels: int = MAX_PIXELS,
    field: str = "query.image",
) -> NDArray[np.uint8]:
    """Decode a JPEG, PNG, WebP, GIF or BMP picture; returns uint8 RGB [H, W, 3], C-contiguous.

    The orientation tag is applied, transparency is laid over white, 16-bit samples are scaled to 8 bits,
    palettes, grey and CMYK become RGB (by arithmetic: embedded colour profiles are not applied), and an
    animation gives its first frame. `max_bytes` is the length of `data`, `max_pixels` width * height; both
    are checked before any pixel is decoded. Raises `InvalidArgumentError` naming `field` for pictures above
    them and for anything that is not a whole picture of these formats. Safe to call from several threads;
    the decoders release the GIL.
    """
    if len(data) == 0:
        raise InvalidArgumentError(field, f"is empty; send a {FORMATS} picture")
    if len(data) > max_bytes:
        raise InvalidArgumentError(field, f"is {len(data)} bytes long; the limit is {max_bytes} bytes")
    try:
        return _decode(bytes(data), max_pixels, field)
    except (InvalidArgumentError, MemoryError):
        raise
    except Exception as error:
        # Decoders answer hostile bytes with exceptions of every kind (struct.error, SyntaxError, zlib.error).
        # Whatever they raise, the bytes are at fault.
        reason = str(error) or type(error).__name__
        raise InvalidArgumentError(field, f"cannot be decoded: damaged or cut off ({reason})") from error


def prepare_pixels(image: NDArray[np.uint8], size: int, *, field: str = "query.pixels") -> NDArray[np.uint8]:
    """Scale the short side to `size` pixels (antialiased bicubic) and crop the centre.

    `image` is uint8 RGB [H, W, 3]; returns uint8 [size, size, 3]. Raises `InvalidArgumentError` naming
    `field` for any other dtype or shape.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        shape = list(image.shape)
        raise InvalidArgumentError(
            field, f"must be uint8 [height, width, 3] of at least one pixel, not {image.dtype} {shape}"
        )
    return resize_crop(image, size)


def _decode(data: bytes, max_pixels: int, field: str) -> NDArray[np.uint8]:
    opener = _opener(data)
    if opener is None:
        raise InvalidArgumentError(field, f"is not a {FORMATS} picture")
    exif = b""
    if opener is JpegImageFile:
        # Pillow would read the block as well, and warn about every damage.
        exif, data = split_exif(data)
        scans = data.count(b"\xff\xda")
        if scans > MAX_SCANS:
            raise InvalidArgumentError(field, f"has {scans} JPEG scans; the limit is {MAX_SCANS}")
    # These two allocate their canvas when they are opened.
    elif opener is GifImageFile:
        _check_size(gif_size(data), max_pixels, field)
    elif opener is WebPImageFile:
        _check_size(webp_size(data), max_pixels, field)
    with opener(BytesIO(data)) as image:
        _check_size(image.size, max_pixels, field)
        if isinstance(image, JpegImageFile):
            pixels = _jpeg_pixels(data, image)
        else:
            pixels = np.asarray(_over_white(image))
            exif = image.info.get("exif", b"")
    return np.ascontiguousarray(_upright(pixels, exif_orientation(exif)))


def _opener(data: bytes) -> Callable[[BytesIO], ImageFile] | None:
    """The Pillow class that reads this format, by its first bytes.

    The classes are called directly: `Image.open` would apply Pillow's process-wide pixel limit and warnings.
    """
    if data.startswith(b"\xff\xd8\xff"):
        return JpegImageFile
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return PngImageFile
    if data.startswith((b"GIF87a", b"GIF89a")):
        return GifImageFile
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return WebPImageFile
    if data.startswith(b"BM"):
        return BmpImageFile
    return None


def _check_size(size: tuple[int, int], max_pixels: int, field: str) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise InvalidArgumentError(field, f"says that it is {width} x {height} pixels")
    if width * height > max_pixels:
        raise InvalidArgumentError(
            field,
            f"has {width} x {height} = {width * height} pixels; the limit is {max_pixels} pixels",
        )


def _jpeg_pixels(data: bytes, image: JpegImageFile) -> NDArray[np.uint8]:
    """Pixels of a JPEG; `image` has its header read and nothing decoded."""
    if image.mode in ("RGB", "L"):
        try:
            pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(data, colorspace="RGB")
            return pixels
        except ValueError:
            # It also refuses harmless oddities and rare subsamplings; Pillow tells those from a cut-off file.
            pass
    if image.mode == "CMYK" and "adobe" not in image.info:
        # Pillow takes every CMYK JPEG for Adobe's, which stores the inks inverted.
        return np.asarray(ImageChops.invert(image).convert("RGB"))
    return np.asarray(image.convert("RGB"))


def _over_white(image: ImageFile) -> Image.Image:
    """RGB of a picture in any of Pillow's modes, transparency laid over white."""
    if image.mode.startswith("I;16"):
        return _grey16_over_white(image)
    if not image.has_transparency_data:
        return image.convert("RGB")
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


def _upright(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Undo the camera's orientation (EXIF 2.32, tag 0x0112: 1 to 8; anything else is left as it is)."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels
