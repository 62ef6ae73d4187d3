"""Pictures that are small and claim much, or make a parser walk; and a good one that is large."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image


def scans() -> bytes:
    """A JPEG of 36 megapixels, whose last scan comes 80 times: seconds of a decoder's time."""
    kept = io.BytesIO()
    Image.new("L", (6_000, 6_000)).save(kept, "JPEG", progressive=True)
    whole = kept.getvalue()
    last = whole.rindex(b"\xff\xda")
    return whole[:last] + whole[last:-2] * 80 + whole[-2:]


def white(side: int) -> bytes:
    """A PNG of `side` x `side` grey pixels, a thousandth of a byte each."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    rows = zlib.compress(bytes((side + 1) * side), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def below() -> dict[str, bytes]:
    """What stays just below the limits above which pictures are refused, or read by another process."""
    return {
        "below the limit: PNG, 1.5 megapixels": white(1_224),
        "below the limit: JPEG, 16 MB of fill bytes": b"\xff\xd8" + b"\xff" * 16_000_000 + b"\xd9",
        "below the limit: JPEG, 500 empty segments": b"\xff\xd8" + b"\xff\xe1\x00\x02" * 500 + b"\xff\xd9",
    }


def hostile() -> dict[str, bytes]:
    """One of each kind; sizes in bytes are small beside what they ask for."""
    bits = (5_000 - 1) | (4_999 - 1) << 14
    lossless = b"\x2f" + struct.pack("<I", bits) + b"\x88\x88\x08" + bytes(6)
    webp = (
        b"RIFF"
        + struct.pack("<I", 12 + len(lossless))
        + b"WEBPVP8L"
        + struct.pack("<I", len(lossless))
        + lossless
    )

    beyond = struct.pack("<I", 6_999 | 6_999 << 14)
    return {
        "WebP, 34 bytes, 25 megapixels": webp,
        "WebP, 34 bytes, 49 megapixels": webp.replace(struct.pack("<I", bits), beyond),
        "PNG, 35 kB, 36 megapixels": white(6_000),
        "JPEG, 36 megapixels, 90 scans": scans(),
        "JPEG, 60,000 empty segments": b"\xff\xd8" + b"\xff\xe1\x00\x02" * 60_000 + b"\xff\xd9",
        "JPEG, 1 MB of fill bytes": b"\xff\xd8" + b"\xff" * 1_000_000 + b"\xd9",
        "GIF, a comment in 60,000 pieces": (
            b"GIF89a\x01\x00\x01\x00\x00\x00\x00!\xfe" + b"\x01a" * 60_000 + b"\x00;"
        ),
        "JPEG, noise": b"\xff\xd8\xff\xe0" + np.random.default_rng(1).bytes(3_000),
    }


def large() -> bytes:
    """A good picture that goes to a decoding process: a JPEG of 12 megapixels."""
    side = np.random.default_rng(1).integers(0, 255, (30, 40, 3), dtype=np.uint8)
    kept = io.BytesIO()
    Image.fromarray(side).resize((4_000, 3_000), Image.Resampling.BICUBIC).save(kept, "JPEG")
    return kept.getvalue()
