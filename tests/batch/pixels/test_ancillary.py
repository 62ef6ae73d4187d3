"""Law 5: what has nothing to do with pixels never refuses a picture and never changes one."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from attributary.errors import InvalidArgumentError
from attributary.pictures import decode
from attributary.pictures.walk import MAX_PARTS
from tests.support.picture_files import (
    after_ihdr,
    after_soi,
    before_iend,
    chunk,
    encoded,
    extended_webp,
    photo,
    riff,
    segment,
)

JPEG, PNG, GIF = encoded(photo(), "JPEG"), encoded(photo(), "PNG"), encoded(photo(), "GIF")
PROGRESSIVE = encoded(photo(), "JPEG", progressive=True)
NOISE = np.random.default_rng(5).bytes(9 << 20)
VIDEO = b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + NOISE
BOMB = zlib.compress(bytes(80 << 20), 9)


def same(data: bytes, plain: bytes) -> bool:
    """Whether both decode to the same pixels."""
    return np.array_equal(decode(data), decode(plain))


@pytest.mark.parametrize("plain", [JPEG, PROGRESSIVE], ids=["baseline", "progressive"])
@pytest.mark.parametrize(
    "extra",
    [
        segment(0xEB, NOISE[:60_000]) * 120,
        segment(0xE2, b"ICC_PROFILE\0" + NOISE[:1000]),
        segment(0xE1, b"Exif\0\0" + NOISE[:60_000]),
        segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + NOISE[:60_000]) * 20,
        segment(0xED, b"Photoshop 3.0\0008BIM" + NOISE[:500]),
        segment(0xE2, b"MPF\0" + NOISE[:500]),
        segment(0xFE, b""),
        segment(0xE0, b"JFXX\0\x10" + encoded(photo(8, 8), "JPEG")),
        b"\xff" * 1_000_000,
        segment(0xEF, b"") * 20_000,
    ],
    ids=["C2PA", "ICC", "EXIF", "XMP", "IPTC", "MPF", "comment", "thumbnail", "fill bytes", "empty segments"],
)
def test_jpeg_segments(plain, extra):
    assert same(after_soi(plain, extra), plain)


@pytest.mark.parametrize("plain", [JPEG, PROGRESSIVE], ids=["baseline", "progressive"])
@pytest.mark.parametrize(
    "trailer",
    [VIDEO, b"PK\3\4" + NOISE, JPEG, b"\xff\xda" * 5_000, b"\0"],
    ids=["video", "zip", "second picture", "scans", "a byte"],
)
def test_jpeg_trailers(plain, trailer):
    assert same(plain + trailer, plain)


PNG_EXTRAS = {
    "zTXt bomb": chunk(b"zTXt", b"a\0\0" + BOMB),
    "iTXt bomb": chunk(b"iTXt", b"a\0\1\0\0\0" + BOMB),
    "raw profile bomb": chunk(b"zTXt", b"Raw profile type exif\0\0" + BOMB),
    "XMP bomb": chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + BOMB) * 30,
    "much text": chunk(b"tEXt", b"parameters\0" + NOISE[: 5 << 20].replace(b"\0", b" ")),
    "iCCP bomb": chunk(b"iCCP", b"icc\0\0" + BOMB),
    "iCCP of an unknown method": chunk(b"iCCP", b"icc\0\7" + NOISE[:99]),
    "zTXt of an unknown method": chunk(b"zTXt", b"a\0\7" + NOISE[:99]),
    "wrong checksum": chunk(b"tEXt", b"a\0b")[:-1] + b"\0",
    "short gAMA": chunk(b"gAMA", b"\1"),
    "short cHRM": chunk(b"cHRM", b"\1"),
    "short pHYs": chunk(b"pHYs", b"\1"),
    "empty sRGB": chunk(b"sRGB", b""),
    "private": chunk(b"prVt", NOISE[: 5 << 20]),
    "broken animation": chunk(b"acTL", b"\0\0") + chunk(b"fcTL", b"\0\0") + chunk(b"fdAT", b""),
    "animation out of order": chunk(b"acTL", struct.pack(">II", 3, 0)) + chunk(b"fcTL", b"\0\0\0\7" + b"\0" * 22),
    "EXIF of noise": chunk(b"eXIf", NOISE[:70_000]),
    "many": chunk(b"teSt", b"") * 20_000,
}  # fmt: skip


@pytest.mark.parametrize("name", PNG_EXTRAS)
def test_png_chunks(name):
    assert same(after_ihdr(PNG, PNG_EXTRAS[name]), PNG)
    assert same(before_iend(PNG, PNG_EXTRAS[name]), PNG)


def test_png_trailers():
    assert same(PNG + VIDEO, PNG)
    assert same(PNG + PNG, PNG)


def test_png_cut_off_in_what_shows_nothing():
    text = chunk(b"tEXt", b"a\0" + b"b" * 50)
    for length in (3, 8, 11, 30):
        assert same(PNG[:-12] + text[:length], PNG)
    frames = encoded(photo(), "PNG", save_all=True, append_images=[photo().rotate(90)])
    assert same(frames[:-40], PNG)


def test_gif_extensions_and_trailers():
    start = 13 + 3 * 2 ** ((GIF[10] & 7) + 1)
    start = GIF.index(b",", start)
    comment = b"!\xfe" + (b"\xff" + b"," * 255) * 20_000 + b"\0"
    application = b"!\xff\x0bXMP DataXMP" + b"\x0c<x:xmpmeta/>" * 3 + b"\0"
    for extra in (comment, application, b"!\xff\0", b"!\xf9\0", b"!\x99\3abc\0", b"\0\0\0"):
        assert same(GIF[:start] + extra + GIF[start:], GIF)
    assert same(GIF + VIDEO, GIF)


def test_gif_transparency_is_kept():
    image = Image.new("P", (4, 4), 1)
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((1, 1), 0)
    data = encoded(image, "GIF", transparency=0, comment=b"hello")
    assert decode(data)[1, 1].tolist() == [255, 255, 255]
    assert decode(data)[0, 0].tolist() == [0, 0, 255]


def test_webp_chunks_and_trailers():
    plain = extended_webp(0)
    for flags, *extra in (
        (32, (b"ICCP", NOISE[:999])),
        (8, (b"EXIF", NOISE[:99_999])),
        (4, (b"XMP ", NOISE[: 1 << 20])),
        (0, (b"abcd", NOISE[: 1 << 20])),
        (0, *[(b"abcd", b"")] * 20_000),
    ):
        assert same(extended_webp(flags, *extra), plain)
    assert same(plain + VIDEO, plain)
    assert same(encoded(photo(), "WEBP", lossless=True) + VIDEO, plain)


def test_bmp_trailers():
    plain = encoded(photo(), "BMP")
    assert same(plain + VIDEO, plain)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (after_soi(JPEG, segment(0xEF, b"") * 70_000), "more than 65536 JPEG segments"),
        (after_ihdr(PNG, chunk(b"IDAT", b"") * 70_000), "more than 65536 PNG chunks"),
        (after_ihdr(PNG, chunk(b"teSt", b"") * 70_000), "more than 65536 PNG chunks"),
        (b"GIF89a\4\0\4\0\0\0\0!\xfe" + b"\1x" * 70_000 + b"\0,", "more than 65536 GIF blocks"),
        (b"GIF89a\4\0\4\0\0\0\0" + b"!\xfe\0" * 70_000 + b",", "more than 65536 GIF blocks"),
    ],
    ids=["JPEG segments", "PNG data", "PNG chunks", "GIF sub-blocks", "GIF blocks"],
)
def test_parts_are_counted(data, words):
    assert MAX_PARTS == 65_536
    with pytest.raises(InvalidArgumentError, match=words):
        decode(data)


def test_scans_are_counted_wherever_a_decoder_would_find_them():
    start = PROGRESSIVE.rindex(b"\xff\xda")
    scan = PROGRESSIVE[start:-2]
    hidden = (
        PROGRESSIVE[:-2] + b"\xff\x31\0\2" + scan * 200 + PROGRESSIVE[-2:]
    )  # behind a marker of no meaning
    between = PROGRESSIVE[:-2] + (segment(0xFE, b"x") + scan) * 200 + PROGRESSIVE[-2:]
    for data in (hidden, between):
        with pytest.raises(InvalidArgumentError, match=r"JPEG scans; the limit is 100"):
            decode(data)


def test_two_headers_of_different_sizes():
    bigger = chunk(b"IHDR", struct.pack(">IIBBBBB", 9000, 9000, 8, 2, 0, 0, 0))
    with pytest.raises(InvalidArgumentError, match="81000000 pixels"):
        decode(after_ihdr(PNG, bigger))


def test_pixels_that_are_missing_still_refuse():
    for data in (JPEG, PROGRESSIVE, PNG, GIF, extended_webp(0)):
        with pytest.raises(InvalidArgumentError, match="cannot be decoded"):
            decode(data[: len(data) * 2 // 3], field="x")
    with pytest.raises(InvalidArgumentError, match="cannot be decoded"):
        decode(riff((b"VP8 ", NOISE[:100])))
    assert decode(PNG).shape == np.asarray(Image.open(io.BytesIO(PNG))).shape


def test_cmyk_jpeg_with_and_without_adobes_marker():
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))  # red
    data = encoded(image, "JPEG", quality=95)
    assert b"Adobe" in data
    assert np.abs(decode(data)[8, 8].astype(int) - [255, 0, 0]).max() <= 4
    # Inks are taken for inverted either way, as browsers and Pillow do: programs lose the marker, not the habit.
    marker = data.index(b"\xff\xee")
    length = struct.unpack(">H", data[marker + 2 : marker + 4])[0]
    assert np.array_equal(decode(data[:marker] + data[marker + 2 + length :]), decode(data))
