"""2,000 generated and damaged pictures beside Pillow: pixels within one level, or refused by both.

What is refused by one alone is held to the rules of docs/encoder.md: metadata refuse nothing here, and limits do.
"""

import io
import re
import warnings
import zlib
from contextlib import suppress
from functools import cache

import numpy as np
import pytest
from PIL import Image, ImageOps

from attributary.errors import InvalidArgumentError
from attributary.pictures import decode
from tests.support.picture_files import after_ihdr, after_soi, chunk, encoded, segment, tiff

pytestmark = pytest.mark.filterwarnings("ignore")
Image.init()
FIRST = {b"\xff\xd8\xff": "JPEG", b"\x89PNG\r\n\x1a\n": "PNG", b"RIFF": "WEBP", b"GIF8": "GIF", b"BM": "BMP"}
MAX_PIXELS = 200_000
PARTS = 20
# What Pillow says of metadata where it says more than we ask.
METADATA = re.compile(
    r"checksum in b'[a-z]|APNG|not a TIFF|unpack(_from)? requires|Truncated (pHYs|File Read)|compression method|"
    r"fromhex|index out of range|broken PNG file \(chunk|too large"
)
# Pillow reads on behind an extension of a GIF without contents, and loses its way.
EMPTY_EXTENSION = re.compile(rb"![^\xfe]\0", re.DOTALL)


@cache
def seeds() -> list[bytes]:
    """Pictures of every format and kind of pixels, some turned, some with metadata."""
    rng = np.random.default_rng(16)
    out = []
    for at, (height, width) in enumerate([(24, 17), (1, 1), (40, 33), (8, 64)]):
        coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        image = coarse.resize((width, height), Image.Resampling.BICUBIC)
        alpha = image.convert("RGBA")
        alpha.putalpha(image.convert("L"))
        exif = Image.Exif()
        exif[0x0112] = 5 + at
        for options in (
            {},
            {"progressive": True},
            {"subsampling": 0},
            {"restart_marker_blocks": 2},
            {"exif": exif},
        ):
            out.append(encoded(image, "JPEG", **options))
        out += [encoded(image.convert(mode), "JPEG") for mode in ("L", "CMYK")]
        out += [encoded(image.convert(mode), "PNG") for mode in ("RGB", "L", "1", "LA", "P")]
        out += [
            encoded(alpha, "PNG"),
            encoded(image.quantize(13), "PNG", transparency=3),
            encoded(image, "PNG", exif=exif),
        ]
        out.append(encoded(Image.fromarray(rng.integers(0, 65536, (height, width), dtype=np.uint16)), "PNG"))
        out += [
            encoded(image, "WEBP"),
            encoded(alpha, "WEBP", lossless=True),
            encoded(image, "WEBP", exif=exif),
        ]
        out.append(encoded(image, "WEBP", save_all=True, append_images=[image.rotate(90)]))
        out += [
            encoded(image, "GIF"),
            encoded(image.convert("L"), "GIF"),
            encoded(image.quantize(7), "GIF", transparency=2),
        ]
        out.append(encoded(image, "GIF", save_all=True, append_images=[image.rotate(90)], comment=b"hi"))
        out += [encoded(image.convert(mode), "BMP") for mode in ("RGB", "L", "1", "P", "RGBA")]
        out.append(encoded(image, "PNG", save_all=True, append_images=[image.rotate(90)]))
        out.append(encoded(image, "MPO", save_all=True, append_images=[image.rotate(90)], exif=exif))
        turned = tiff([(0x0112, 3, 1, bytes([1 + at, 0]))])
        out.append(after_ihdr(encoded(image, "PNG"), chunk(b"tEXt", b"a\0b") + chunk(b"eXIf", turned)))
        out.append(
            after_soi(encoded(image, "JPEG"), segment(0xFE, b"x") + segment(0xE1, b"Exif\0\0" + turned))
        )
    return out  # fmt: skip


def damaged(rng: np.random.Generator) -> bytes:
    """A seed, whole (one in ten) or with one to three things done to it."""
    data = bytearray(seeds()[rng.integers(len(seeds()))])
    if rng.random() < 0.1:
        return bytes(data)
    for _ in range(rng.integers(1, 4)):
        # Headers are met as often as pixels.
        at = int(rng.integers(len(data) if rng.random() < 0.5 else min(len(data), 120)))
        what = rng.integers(8)
        if what == 0:
            data[at] ^= 1 << rng.integers(8)
        elif what == 1:
            data[at] = rng.integers(256)
        elif what == 2:
            data[at : at + 2] = rng.bytes(2)
        elif what == 3:
            del data[at : at + int(rng.integers(1, 9))]
        elif what == 4:
            data[at:at] = rng.bytes(int(rng.integers(1, 9)))
        elif what == 5:
            del data[max(at, 12) :]
        else:
            at, part = _part(rng, bytes(data))
            data[at:at] = part
        data = data or bytearray(b"\0")
    return bytes(data)


BODIES = (
    b"",
    b"JFIF\0\1\1",
    b"Adobe\0d\0\0\0\0",
    b"MPF\0",
    b"http://ns.adobe.com/xap/1.0/\0",
    b"XMP DataXMP",
)
NOTES = (b"Raw profile type exif\0", b"XML:com.adobe.xmp\0\0\0\0\0", b"exif\0", b"Comment\0")
XMP = b'<x tiff:Orientation="6"/>'


def _part(rng: np.random.Generator, data: bytes) -> tuple[int, bytes]:
    """A whole part of the format with contents that may say something, and a place where it may stand."""

    def one_of(values: tuple[bytes, ...]) -> bytes:
        return values[rng.integers(len(values))]

    turned = tiff([(0x0112, int(rng.integers(1, 13)), 1, rng.integers(0, 9, dtype="<u4").tobytes())])
    noise = rng.bytes(int(rng.integers(0, 60)))
    if data.startswith(b"\xff\xd8"):
        body = one_of((b"Exif\0\0" + turned, one_of(BODIES) + one_of((noise, XMP))))
        kind = int(rng.choice([0xE0, 0xE1, 0xE2, 0xED, 0xEE, 0xFE]))
        return 2, b"\xff" * int(rng.integers(0, 3)) + segment(kind, body)
    if data.startswith(b"\x89PNG"):
        name = one_of((b"tEXt", b"zTXt", b"iTXt", b"eXIf", b"iCCP", b"prVt", b"gAMA", b"acTL"))
        body = one_of((turned, one_of(NOTES) + one_of((noise, XMP, zlib.compress(XMP)))))
        return int(rng.choice([33, max(33, len(data) - 12)])), chunk(name, body)
    if data.startswith(b"GIF8") and len(data) > 13:
        start = 13 + (3 << (data[10] & 7) + 1 if data[10] & 0x80 else 0)
        label = one_of((b"\xfe", b"\xff", b"\xf9", b"\x01"))
        noise = noise or b"x"
        return start, b"!" + label + bytes([len(noise)]) + noise + b"\0"
    return len(data), rng.bytes(30)


def by_pillow(data: bytes) -> np.ndarray:
    """The picture as Pillow alone shows it, over white; raises whatever Pillow does."""
    kind = next(kind for first, kind in FIRST.items() if data.startswith(first))
    image = Image.OPEN[kind][0](io.BytesIO(data), None)  # Image.open would not tell why it refuses
    if image.width * image.height > MAX_PIXELS:
        raise ValueError("too many pixels")
    image.load()
    with suppress(Exception):  # damaged metadata turn nothing
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):
        return np.repeat((np.asarray(image) >> 8).astype(np.uint8)[..., None], 3, axis=2)
    if not image.has_transparency_data:
        return np.asarray(image.convert("RGB"))
    layered = image.convert("RGBA")
    if image.format == "BMP" and layered.getchannel("A").getextrema() == (0, 0):
        return np.asarray(layered.convert("RGB"))
    white = Image.new("RGBA", layered.size, "white")
    return np.asarray(Image.alpha_composite(white, layered).convert("RGB"))


def compare(data: bytes) -> str:
    """Decode by both; returns "pixels", "refused" or, where the rules say so, "metadata". Raises AssertionError."""
    try:
        reference, reason = by_pillow(data), ""
    except Exception as error:
        reference, reason = None, str(error) or type(error).__name__
    try:
        found = decode(data, max_pixels=MAX_PIXELS)
    except InvalidArgumentError as error:
        # Where the first view of an MPO lost its header, Pillow shows another one.
        assert reference is None or data.count(b"\xff\xd8\xff") > 1, f"refused: {error}"
        return "refused"
    if reference is None:
        lost = data.startswith(b"GIF8") and EMPTY_EXTENSION.search(data)
        assert lost or METADATA.search(reason), f"Pillow refuses: {reason}"
        return "metadata"
    assert found.shape == reference.shape
    assert np.abs(found.astype(int) - reference).max() <= 1
    return "pixels"


def run(seed: int, count: int) -> dict[str, int]:
    rng = np.random.default_rng([20, seed])
    fates = {"pixels": 0, "refused": 0, "metadata": 0}
    for at in range(count):
        data = damaged(rng)
        try:
            fates[compare(data)] += 1
        except AssertionError as error:
            raise AssertionError(f"picture {at} of seed {seed}: {error}") from None
    return fates


@pytest.mark.parametrize("seed", range(PARTS))
def test_2000_pictures(seed):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fates = run(seed, 2000 // PARTS)
    # It would prove little if nearly all were refused.
    assert fates["pixels"] >= 20
    assert fates["refused"] >= 20


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 120))
def test_a_hundred_thousand_pictures(seed):
    run(seed, 5_000)
