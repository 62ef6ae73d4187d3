"""Hostile bytes: whatever is done to a picture, decoding gives pixels or the one typed error."""

import io
import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from attributary.encoder import decode
from attributary.errors import InvalidArgumentError


def _seeds():
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (24, 17, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    kinds = {
        "jpeg": (noise, "JPEG", {"exif": exif.tobytes()}),
        "progressive": (noise, "JPEG", {"progressive": True}),
        "cmyk": (noise.convert("CMYK"), "JPEG", {}),
        "png": (noise, "PNG", {}),
        "palette": (noise.quantize(8), "PNG", {"transparency": 3}),
        "alpha": (noise.convert("RGBA"), "PNG", {}),
        "16bit": (Image.fromarray(rng.integers(0, 65536, (9, 9), dtype=np.uint16)), "PNG", {}),
        "webp": (noise, "WEBP", {}),
        "lossless": (noise.convert("RGBA"), "WEBP", {"lossless": True}),
        "gif": (noise, "GIF", {"save_all": True, "append_images": [noise.rotate(90)]}),
        "bmp": (noise, "BMP", {}),
    }
    out = {}
    for name, (image, kind, options) in kinds.items():
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        out[name] = buffer.getvalue()
    return out


SEEDS = _seeds()
QUICK = settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def answer(data):
    """Decode with a small pixel limit, as flipped sizes would only cost time here; warnings are errors."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            pixels = decode(data, max_pixels=1_000_000)
    except InvalidArgumentError as error:
        assert error.field == "query.image"
        return
    assert pixels.dtype == np.uint8
    assert pixels.ndim == 3
    assert pixels.shape[2] == 3
    assert 1 <= pixels.shape[0] * pixels.shape[1] <= 1_000_000


@pytest.mark.parametrize("name", sorted(SEEDS))
def test_every_truncation(name):
    data = SEEDS[name]
    for length in range(0, len(data), max(1, len(data) // 150)):
        answer(data[:length])


@QUICK
@given(
    st.sampled_from(sorted(SEEDS)), st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 7)), max_size=6)
)
def test_flipped_bits(name, flips):
    data = bytearray(SEEDS[name])
    for position, bit in flips:
        data[position % len(data)] ^= 1 << bit
    answer(bytes(data))


@QUICK
@given(st.sampled_from(sorted(SEEDS)), st.integers(0, 200), st.binary(min_size=1, max_size=12))
def test_overwritten_headers(name, position, patch):
    data = bytearray(SEEDS[name])
    data[position : position + len(patch)] = patch
    answer(bytes(data))


@QUICK
@given(
    st.sampled_from([b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"RIFF0000WEBPVP8X", b"BM", b""]),
    st.binary(),
)
@example(b"GIF89a", b"\xff" * 64)
def test_random_bytes_behind_a_magic_number(magic, rest):
    answer(magic + rest)


@QUICK
@given(st.sampled_from(sorted(SEEDS)), st.sampled_from(sorted(SEEDS)), st.floats(0, 1), st.floats(0, 1))
def test_spliced_files(first, second, cut, join):
    head, tail = SEEDS[first], SEEDS[second]
    answer(head[: int(len(head) * cut)] + tail[int(len(tail) * join) :])
