"""Pictures for the tests of `attributary.pictures`, made by Pillow and taken apart by hand."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image


def photo(height: int = 24, width: int = 32) -> Image.Image:
    """Smooth colours that no turning leaves as they are."""
    y, x = np.mgrid[0:height, 0:width]
    return Image.fromarray(
        np.stack([255 * x // width, 255 * y // height, 128 + (x + y) % 64], axis=2).astype(np.uint8)
    )


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    """`image` as Pillow writes it."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def segment(marker: int, body: bytes) -> bytes:
    """A JPEG segment."""
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(body) + 2) + body


def after_soi(jpeg: bytes, extra: bytes) -> bytes:
    """A JPEG with bytes put behind its first marker."""
    return jpeg[:2] + extra + jpeg[2:]


def chunk(name: bytes, body: bytes) -> bytes:
    """A PNG chunk."""
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def after_ihdr(png: bytes, extra: bytes) -> bytes:
    """A PNG with chunks put behind its header."""
    return png[:33] + extra + png[33:]


def before_iend(png: bytes, extra: bytes) -> bytes:
    """A PNG with chunks put behind its pixels."""
    return png[:-12] + extra + png[-12:]


def riff(*chunks: tuple[bytes, bytes]) -> bytes:
    """A WebP of these chunks."""
    body = b"".join(n + struct.pack("<I", len(d)) + d + b"\0" * (len(d) & 1) for n, d in chunks)
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


def extended_webp(flags: int, *chunks: tuple[bytes, bytes], size: tuple[int, int] = (32, 24)) -> bytes:
    """A WebP with an extended header around one still picture and these chunks."""
    still = encoded(photo(size[1], size[0]), "WEBP", lossless=True)[20:]
    sides = b"".join((side - 1).to_bytes(3, "little") for side in size)
    return riff((b"VP8X", bytes([flags, 0, 0, 0]) + sides), (b"VP8L", still), *chunks)


def tiff(
    entries: list[tuple[int, int, int, bytes]], order: str = "<", tail: bytes = b"", at: int = 8
) -> bytes:
    """An EXIF block, without its "Exif" heading, of a directory at `at` with these (tag, type, count, value)."""
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", at)
    directory = struct.pack(order + "H", len(entries)) + b"".join(
        struct.pack(order + "HHI", *entry[:3]) + entry[3].ljust(4, b"\0")[:4] for entry in entries
    )
    return head + b"\0" * (at - 8) + directory + struct.pack(order + "I", 0) + tail
