"""Decoding: every kind of picture comes out as a person would see it, everything else is refused by name."""

import io
import struct
import threading
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from attributary.encoder import decode, prepare_pixels
from attributary.errors import InvalidArgumentError


def photo(height=48, width=64):
    """Smooth colours, so that lossy formats stay close."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([255 * x // width, 255 * y // height, 255 - 255 * x // width], axis=2).astype(np.uint8)


def encoded(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png(width, height, depth, colour, rows, *chunks):
    """A PNG written by hand, for kinds that Pillow does not write."""

    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunk(*c) for c in chunks) + data + chunk(b"IEND", b"")


@pytest.mark.parametrize(("kind", "tolerance"), [("PNG", 0), ("BMP", 0), ("JPEG", 12), ("WEBP", 12)])
def test_plain_rgb(kind, tolerance):
    pixels = decode(encoded(Image.fromarray(photo()), kind))
    assert pixels.dtype == np.uint8
    assert pixels.shape == (48, 64, 3)
    assert pixels.flags.c_contiguous
    assert np.abs(pixels.astype(int) - photo()).max() <= tolerance


def test_jpeg_equals_pillow():
    data = encoded(Image.fromarray(photo(203, 301)), "JPEG", quality=85)
    assert np.array_equal(decode(data), np.asarray(Image.open(io.BytesIO(data))))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP"])
def test_grey_is_repeated(kind):
    grey = Image.fromarray(photo()[:, :, 0])
    pixels = decode(encoded(grey, kind))
    assert np.array_equal(pixels[..., 0], pixels[..., 1])
    assert np.abs(pixels[..., 2].astype(int) - photo()[:, :, 0]).max() <= 8


def test_palette():
    image = Image.fromarray(photo()).quantize(16)
    assert np.array_equal(decode(encoded(image, "PNG")), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_alpha_is_over_white(kind):
    layer = np.zeros((4, 4, 4), np.uint8)
    layer[..., 3] = [[0, 128, 255, 255]] * 4
    data = encoded(Image.fromarray(layer), kind, lossless=True)
    assert [int(value) for value in decode(data)[0, :3, 0]] == [255, 127, 0]


def test_transparent_palette_entry_is_white():
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putdata([0, 1])
    expected = [[255, 255, 255], [0, 0, 255]]
    assert decode(encoded(image, "PNG", transparency=0))[0].tolist() == expected
    assert decode(encoded(image, "GIF", transparency=0))[0].tolist() == expected


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_transparent_grey_of_every_depth_is_white(depth):
    # Two samples: the highest value but one (transparent), and 0.
    level = 1 if depth == 1 else (1 << depth) - 2
    row = (level << depth).to_bytes(4, "big") if depth == 16 else bytes([level << (8 - depth)])
    row = row if depth < 16 else struct.pack(">HH", level, 0)
    row = bytes([level, 0]) if depth == 8 else row
    data = png(2, 1, depth, 0, [row], (b"tRNS", struct.pack(">H", level)))
    assert decode(data)[0].tolist() == [[255] * 3, [0] * 3]


def test_transparent_16_bit_colour_is_white():
    row = struct.pack(">6H", 0x8001, 0x1000, 0x2000, 0x4000, 0, 0)
    data = png(2, 1, 16, 2, [row], (b"tRNS", struct.pack(">HHH", 0x8001, 0x1000, 0x2000)))
    assert decode(data)[0].tolist() == [[255] * 3, [64, 0, 0]]


@pytest.mark.parametrize(
    ("colour", "samples", "expected"),
    [
        (0, [0x8000], [128, 128, 128]),
        (2, [0xFFFF, 0x8000, 0], [255, 128, 0]),
        (4, [0x8000, 0xFFFF], [128, 128, 128]),
        (6, [0x8000, 0, 0xFFFF, 0xFFFF], [128, 0, 255]),
    ],
)
def test_16_bit_is_scaled_not_clipped(colour, samples, expected):
    data = png(1, 1, 16, colour, [struct.pack(f">{len(samples)}H", *samples)])
    assert decode(data)[0, 0].tolist() == expected


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_first_frame_of_an_animation(kind):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], duration=100, lossless=True)
    assert np.abs(decode(data)[4, 4].astype(int) - [255, 0, 0]).max() <= 2


def test_bmp_with_an_unused_alpha_channel_is_opaque():
    layer = np.dstack([photo(), np.zeros((48, 64), np.uint8)])
    assert np.array_equal(decode(encoded(Image.fromarray(layer), "BMP")), photo())


def test_single_pixel():
    assert decode(encoded(Image.new("RGB", (1, 1), "red"), "PNG")).tolist() == [[[255, 0, 0]]]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty"),
        (b"hello", "not a JPEG, PNG, WebP, GIF, BMP or AVIF"),
        (encoded(Image.new("RGB", (4, 4)), "TIFF"), "not a JPEG"),
        (encoded(Image.new("RGB", (4, 4)), "PPM"), "not a JPEG"),
        (b"\xff\xd8\xff", "cannot be decoded"),
        (b"GIF89a", "cannot be decoded"),
        (b"RIFF\0\0\0\0WEBP", "cannot be decoded"),
        (b"BM", "cannot be decoded"),
        (b"\x89PNG\r\n\x1a\n", "cannot be decoded"),
    ],
)
def test_refused(data, words):
    with pytest.raises(InvalidArgumentError, match=words) as caught:
        decode(data, field="queries[3].image")
    assert caught.value.field == "queries[3].image"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF"])
def test_cut_off(kind):
    data = encoded(Image.fromarray(photo(200, 200)), kind)
    with pytest.raises(InvalidArgumentError, match="cannot be decoded"):
        decode(data[: len(data) // 2])


def test_bytes_limit():
    data = encoded(Image.fromarray(photo()), "PNG")
    assert decode(data, max_bytes=len(data)).shape == (48, 64, 3)
    with pytest.raises(InvalidArgumentError, match=f"the limit is {len(data) - 1} bytes"):
        decode(data, max_bytes=len(data) - 1)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF"])
def test_pixels_limit(kind):
    data = encoded(Image.fromarray(photo()), kind)
    assert decode(data, max_pixels=48 * 64).shape == (48, 64, 3)
    with pytest.raises(InvalidArgumentError, match=r"64 x 48 = 3072 pixels; the limit is 3071 pixels"):
        decode(data, max_pixels=48 * 64 - 1)


def bombs():
    big = 40_000
    gif = bytearray(encoded(Image.new("P", (4, 4)), "GIF"))
    frame = gif.index(b",", 13 + 3 * 2 ** ((gif[10] & 7) + 1))
    gif[frame + 5 : frame + 9] = struct.pack("<HH", big, big)
    webp = b"RIFF\x20\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + (16_000).to_bytes(3, "little") * 2 + b"\0" * 8
    bmp = bytearray(encoded(Image.new("RGB", (4, 4)), "BMP"))
    bmp[18:26] = struct.pack("<ii", big, big)
    jpeg = bytearray(encoded(Image.new("RGB", (16, 16)), "JPEG"))
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = struct.pack(">HH", big, big)
    return {"PNG": png(big, big, 8, 2, [b"\0"]), "GIF": gif, "WEBP": webp, "BMP": bmp, "JPEG": jpeg}


@pytest.mark.parametrize("kind", ["PNG", "GIF", "WEBP", "BMP", "JPEG"])
def test_bombs_are_refused_from_the_header(kind):
    import tracemalloc

    data = bytes(bombs()[kind])
    tracemalloc.start()
    try:
        with pytest.raises(InvalidArgumentError, match=r"the limit is (50|25)000000 pixels"):
            decode(data)
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("size", [(2**24 + 1, 1), (1, 2**24 + 1)])
def test_a_side_that_no_kernel_takes_is_refused_from_the_header(size):
    data = png(*size, 8, 0, [b"\0"])
    with pytest.raises(
        InvalidArgumentError, match=r"^query.image: is \d+ x \d+ pixels; a side may have 16777216$"
    ):
        decode(data)


def test_a_hundred_megapixels_pass_where_the_limit_allows_them(monkeypatch):
    # Pillow's own limit must not bite, nor its warning leak.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    data = encoded(Image.new("1", (10_000, 10_000)), "PNG")
    with pytest.raises(InvalidArgumentError, match="100000000 pixels"):
        decode(data)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode(data, max_pixels=100_000_000).shape == (10_000, 10_000, 3)


def test_progressive_jpeg_with_too_many_scans():
    data = encoded(Image.fromarray(photo()), "JPEG", progressive=True)
    assert decode(data).shape == (48, 64, 3)
    start = data.rindex(b"\xff\xda")
    with pytest.raises(InvalidArgumentError, match="JPEG scans; the limit is 100"):
        decode(data[:-2] + data[start:-2] * 200 + data[-2:])


def test_threads_agree():
    inputs = [encoded(Image.fromarray(photo(64 + i, 80)), "JPEG" if i % 2 else "PNG") for i in range(8)]
    expected = [decode(data) for data in inputs]
    wrong = []

    def work():
        for data, pixels in zip(inputs * 5, expected * 5, strict=True):
            if not np.array_equal(decode(data), pixels):
                wrong.append(len(data))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_prepare_scales_the_short_side_and_crops_the_centre():
    image = np.zeros((100, 300, 3), np.uint8)
    image[:, 100:200] = 255
    prepared = prepare_pixels(image, 50)
    assert prepared.shape == (50, 50, 3)
    # Bicubic rounds the edges of the white square.
    assert prepared[:, 2:-2].min() == 255
    assert prepared.min() > 200


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
    ],
)
def test_prepare_refuses(image):
    with pytest.raises(InvalidArgumentError, match=r"query\.pixels: must be uint8"):
        prepare_pixels(image, 8)
