"""A known picture within margins is recognised, and what is no known picture is not."""

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw

from attributary.pictures import pool, read
from attributary.pictures.framed import framed
from attributary.pictures.looks import look_of
from attributary.pictures.margins import SIDE, overview
from attributary.pictures.recognise import Known, Shown

SIZE = 64


def drawn(number, ground=None, width=256, height=256):
    """A picture to its edges, or one that stands out on a ground."""
    rng = np.random.default_rng(number)
    image = Image.new("RGB", (width, height), ground or tuple(rng.integers(0, 256, 3).tolist()))
    pen = ImageDraw.Draw(image)
    low, high = (0.0, 1.0) if ground is None else (0.25, 0.75)
    for _ in range(14):
        x, y = rng.uniform(low, high) * width, rng.uniform(low, high) * height
        reach = rng.uniform(0.05, 0.2, 2) * min(width, height)
        colour = tuple(rng.integers(0, 200, 3).tolist())
        pen.ellipse((x - reach[0], y - reach[1], x + reach[0], y + reach[1]), fill=colour)
    return image


PICTURES = [drawn(number) for number in range(8)]
PICTURES += [drawn(number, (255, 255, 255)) for number in range(10, 18)]
PICTURES += [drawn(number, None, 400, 250) for number in range(20, 24)]


def seen(image, **options):
    stream = io.BytesIO()
    image.save(stream, "JPEG", **({"quality": 90} | options))
    return read(stream.getvalue(), SIZE, max_bytes=10**8, field="image", margins=True)


def rows(image, known, **options):
    picture = seen(image, **options)
    found = Shown(picture.pixels).closest(known)
    if not found.size and picture.overview is not None:
        found = framed(picture.overview, SIZE, known)
    return found.tolist()


@pytest.fixture(scope="module")
def known():
    return Known.of(np.stack([look_of(seen(image, quality=95).pixels) for image in PICTURES]))


def within(image, colour, left, top, right, bottom):
    width, height = image.size
    ground = Image.new("RGB", (round(width * (1 + left + right)), round(height * (1 + top + bottom))), colour)
    ground.paste(image, (round(width * left), round(height * top)))
    return ground


def worded(image):
    wider = within(image, (255, 255, 255), 0, 0, 0, 0.2)
    ImageDraw.Draw(wider).text((8, image.height + 16), "a caption of words", (20, 20, 20), font_size=16)
    return wider


@pytest.mark.parametrize(
    "changed",
    [
        lambda image: within(image, (230, 230, 230), 0.1, 0.1, 0.1, 0.1),
        lambda image: within(image, (255, 255, 255), 0.1, 0.1, 0.1, 0.1),
        # A hairline, of a pixel and of two.
        lambda image: within(image, (0, 0, 0), 0.004, 0.004, 0.004, 0.004),
        lambda image: within(image, (0, 0, 0), 0.008, 0.008, 0.008, 0.008),
        lambda image: within(image, (0, 0, 0), 0.3, 0.05, 0.3, 0.05),
        lambda image: within(image, (0, 0, 0), 0, 0.3, 0, 0.3),
        lambda image: within(image, (32, 33, 36), 0.4, 0.1, 0.2, 0.3),
        lambda image: within(image, (255, 255, 255), 0.1, 0.4, 0.2, 0.1),
        worded,
    ],
    ids=[
        "light",
        "white",
        "a pixel",
        "two pixels",
        "bars",
        "letterbox",
        "dark window",
        "white window",
        "words below",
    ],
)
def test_a_picture_within_margins_is_recognised(known, changed):
    found = [rows(changed(image), known) for image in PICTURES]
    assert all(row in ([number], []) for number, row in enumerate(found)), found
    assert sum(map(bool, found)) >= len(PICTURES) - 1, found


def test_no_other_picture_is(known):
    for number in range(100, 120):
        for image in (drawn(number), drawn(number, (255, 255, 255)), PICTURES[number % 8].rotate(90)):
            assert rows(within(image, (0, 0, 0), 0.1, 0.1, 0.1, 0.1), known) == []
            assert rows(within(image, (255, 255, 255), 0.1, 0.1, 0.1, 0.1), known) == []


def test_a_plain_shape_on_its_ground_is_nobodys():
    """Of another house's disc nothing but the size is another."""

    def disc(side, reach):
        image = Image.new("RGB", (side, side), "white")
        middle = side // 2
        ImageDraw.Draw(image).ellipse((middle - reach,) * 2 + (middle + reach,) * 2, fill=(200, 30, 30))
        return image

    known = Known.of(np.stack([look_of(seen(disc(256, 100)).pixels)]))
    assert rows(disc(256, 100), known) == [0]
    assert rows(disc(256, 50), known) == []
    # Where the frame shows how large the disc was, it is the picture.
    assert rows(within(disc(256, 100), (0, 0, 0), 0.1, 0.1, 0.1, 0.1), known) == [0]


@pytest.mark.parametrize(
    "pixels",
    [
        np.full((64, 64, 3), 77, np.uint8),
        np.zeros((1, 500, 3), np.uint8),
        np.zeros((3, 1, 3), np.uint8),
        np.repeat(np.arange(128, dtype=np.uint8)[:, None, None] * 2, 128, 1).repeat(3, 2),
        np.repeat(np.arange(128, dtype=np.uint8)[None, :, None] * 2, 128, 0).repeat(3, 2),
    ],
    ids=["one colour", "a line", "three pixels", "rows", "columns"],
)
def test_what_shows_nothing_shows_no_item(known, pixels):
    view = overview(pixels)
    assert view is None or framed(view, SIZE, known).tolist() == []


def test_an_overview_is_small_and_made_only_where_a_side_has_one_colour():
    assert overview(np.random.default_rng(0).integers(0, 256, (300, 200, 3), dtype=np.uint8)) is None
    assert overview(np.full((3000, 1000, 3), 9, np.uint8)).shape == (SIDE, 85, 3)
    assert overview(np.full((40, 50, 3), 9, np.uint8)).shape == (40, 50, 3)


def test_another_process_brings_the_same_overview(monkeypatch):
    image = within(PICTURES[0], (0, 0, 0), 0.1, 0.1, 0.1, 0.1)
    here = seen(image)
    monkeypatch.setattr(pool, "COSTLY_MS", 0.0)
    there = seen(image)
    assert np.array_equal(here.overview, there.overview)
    assert np.array_equal(here.pixels, there.pixels)
    bare = read(_png(PICTURES[0]), SIZE, field="image")
    assert bare.overview is None


def _png(image):
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()
