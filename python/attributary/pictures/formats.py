"""Which formats are read, and what a picture will cost: told from its first bytes and its headers, before decoding."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO

from PIL.AvifImagePlugin import SUPPORTED as AVIF_SUPPORTED
from PIL.AvifImagePlugin import AvifImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from ..errors import InvalidArgumentError
from ..kernels.preprocess import MAX_SIDE
from .walk import MAX_PARTS, Walked, walk_bmp, walk_gif, walk_jpeg, walk_png, walk_webp

FORMATS = "JPEG, PNG, WebP, GIF, BMP or AVIF" if AVIF_SUPPORTED else "JPEG, PNG, WebP, GIF or BMP"

# What an encoded picture may cost, unless the caller says otherwise.
MAX_BYTES = 20 * 1024 * 1024
MAX_PIXELS = 50_000_000
# Formats whose decoders take several times a JPEG's memory and time for a pixel: never more than this.
_MAX_SLOW_PIXELS = 25_000_000
# Of a decoding process: seconds of CPU time, and bytes beyond what it has when it starts. The dearest picture within
# MAX_PIXELS (16 bits a sample, with transparency) takes about half of each.
MAX_CPU_S = 5
MAX_MEMORY = 1536 << 20


@dataclass(frozen=True, slots=True)
class Format:
    """A format and its decoder. The Pillow classes are called directly: `Image.open` would apply Pillow's
    process-wide pixel limit and its warnings."""

    name: str
    opener: Callable[[BytesIO], ImageFile]
    walk: Callable[[bytes, str, int], Walked]
    max_pixels: int | None  # whatever the caller allows
    # CPU time on one 2.6 GHz core, rounded up (benchmarks/decode.py).
    ns_per_pixel: float
    ns_per_byte: float


def _walk_nothing(data: bytes, field: str, parts: int) -> Walked:
    return Walked(data)


JPEG = Format("JPEG", JpegImageFile, walk_jpeg, None, 8, 5)
PNG = Format("PNG", PngImageFile, walk_png, None, 25, 5)
WEBP = Format("WebP", WebPImageFile, walk_webp, _MAX_SLOW_PIXELS, 25, 5)
GIF = Format("GIF", GifImageFile, walk_gif, _MAX_SLOW_PIXELS, 25, 5)
BMP = Format("BMP", BmpImageFile, walk_bmp, None, 3, 1)
# Run lengths are read in Python, a byte at a time.
BMP_RLE = Format("BMP", BmpImageFile, walk_bmp, _MAX_SLOW_PIXELS, 10, 250)
# A video decoder's key frame: too much code, and too much time, to run beside others.
AVIF = Format("AVIF", AvifImageFile, _walk_nothing, _MAX_SLOW_PIXELS, 100, 1e9)


def format_of(data: bytes) -> Format | None:
    """Return the format by the first bytes, None for any other."""
    if data.startswith(b"\xff\xd8\xff"):
        return JPEG
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return PNG
    if data.startswith((b"GIF87a", b"GIF89a")):
        return GIF
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return WEBP
    if data.startswith(b"BM"):
        return BMP_RLE if data[30:31] in (b"\1", b"\2") and data[14:15] != b"\x0c" else BMP
    if AVIF_SUPPORTED and data[4:8] == b"ftyp" and data[8:12] in (b"avif", b"avis", b"mif1", b"msf1"):
        return AVIF
    return None


def inspect(
    data: bytes, max_bytes: int, max_pixels: int, field: str, parts: int = MAX_PARTS
) -> tuple[Format, Walked]:
    """Check what can be checked before decoding; raises InvalidArgumentError naming `field`.

    It is a TooManyPartsError for more than `parts` segments, chunks or blocks.
    """
    if len(data) == 0:
        raise InvalidArgumentError(field, f"is empty; send a {FORMATS} picture")
    if len(data) > max_bytes:
        raise InvalidArgumentError(field, f"is {len(data)} bytes long; the limit is {max_bytes} bytes")
    kind = format_of(data)
    if kind is None:
        raise InvalidArgumentError(field, f"is not a {FORMATS} picture")
    with damaged(field):
        walked = kind.walk(data, field, parts)
    if walked.width and walked.height:
        check_size(kind, walked.width, walked.height, max_pixels, field)
    return kind, walked


def check_size(kind: Format, width: int, height: int, max_pixels: int, field: str) -> None:
    """Raise InvalidArgumentError for a picture without pixels and for one above the limit of its format."""
    if width < 1 or height < 1:
        raise InvalidArgumentError(field, f"says that it is {width} x {height} pixels")
    if max(width, height) > MAX_SIDE:
        raise InvalidArgumentError(field, f"is {width} x {height} pixels; a side may have {MAX_SIDE}")
    limit = max_pixels if kind.max_pixels is None else min(max_pixels, kind.max_pixels)
    if width * height > limit:
        of = f" for {kind.name}" if limit < max_pixels else ""
        raise InvalidArgumentError(
            field, f"has {width} x {height} = {width * height} pixels; the limit is {limit} pixels{of}"
        )


def cost_ms(kind: Format, walked: Walked) -> float:
    """CPU milliseconds that decoding may take, roughly. Passes after the first cost a JPEG half as much each."""
    passes = 1 + 0.5 * max(0, walked.scans - 1)
    pixels = walked.width * walked.height
    return (pixels * kind.ns_per_pixel * passes + len(walked.data) * kind.ns_per_byte) / 1e6


@contextmanager
def damaged(field: str) -> Iterator[None]:
    """Turn whatever a decoder raises inside into the one typed error; a want of memory stays what it is.

    Decoders answer hostile bytes with exceptions of every kind (struct.error, SyntaxError, zlib.error).
    """
    try:
        yield
    except (InvalidArgumentError, MemoryError):
        raise
    except Exception as error:
        reason = str(error) or type(error).__name__
        raise InvalidArgumentError(field, f"cannot be decoded: damaged or cut off ({reason})") from error
