"""A picture that is known is recognised after another encoding or size, and no other picture is."""

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw

from attributary.pictures import read
from attributary.pictures.looks import LENGTH, look_of, unit
from attributary.pictures.recognise import SAME_PICTURE, Known, Shown

SIZE = 64
SHAPES = ((640, 360), (360, 640), (900, 300), (500, 400), (256, 256))


def drawn(number, width, height, shift=0):
    rng = np.random.default_rng(number)
    image = Image.new("RGB", (width, height), tuple(int(level) for level in rng.integers(0, 256, 3)))
    pen = ImageDraw.Draw(image)
    for _ in range(12):
        x, y = rng.uniform(0, width), rng.uniform(0, height)
        reach = rng.uniform(0.1, 0.5, 2) * min(width, height)
        colour = tuple((int(level) + shift) % 256 for level in rng.integers(0, 256, 3))
        pen.ellipse((x - reach[0], y - reach[1], x + reach[0], y + reach[1]), fill=colour)
    return image


def seen(image, kind="PNG", **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return read(stream.getvalue(), SIZE, max_bytes=10**8, field="image").pixels


@pytest.fixture(scope="module")
def pictures():
    return [drawn(number, *SHAPES[number % len(SHAPES)]) for number in range(40)]


@pytest.fixture(scope="module")
def known(pictures):
    return Known.of(np.stack([look_of(seen(image)) for image in pictures]))


@pytest.mark.parametrize(
    "changed",
    [
        lambda image: seen(image),
        lambda image: seen(image, "JPEG", quality=30),
        lambda image: seen(image, "WEBP", quality=50),
        lambda image: seen(image.resize((image.width // 2, image.height // 2), Image.Resampling.LANCZOS)),
        lambda image: seen(
            image.resize((image.width * 2, image.height * 2), Image.Resampling.BICUBIC), "BMP"
        ),
    ],
)
def test_every_picture_is_recognised_as_itself(pictures, known, changed):
    assert [Shown(changed(image)).closest(known).tolist() for image in pictures] == [
        [row] for row in range(len(pictures))
    ]


def test_no_other_picture_is(pictures, known):
    for number in range(40):
        assert not Shown(seen(drawn(1000 + number, 300, 300))).closest(known).size
    for image in pictures[:10]:
        assert not Shown(seen(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT))).closest(known).size
        kept = image.crop((0, 0, int(image.width * 0.8), int(image.height * 0.8)))
        assert not Shown(seen(kept)).closest(known).size
    assert not Shown(np.full((SIZE, SIZE, 3), 77, np.uint8)).closest(known).size


def test_of_two_alike_the_closest_is_meant_and_of_two_equal_both(pictures):
    other = pictures[3].copy()
    ImageDraw.Draw(other).rectangle((240, 190, 262, 212), fill=(255, 255, 255))
    looks = np.stack([look_of(seen(image)) for image in (pictures[3], other, pictures[3])])
    known = Known.of(looks)
    assert Shown(seen(pictures[3])).closest(known).tolist() == [0, 2]
    assert Shown(seen(other)).closest(known).tolist() == [1]


def test_another_colour_is_another_picture():
    def disc(colour):
        image = Image.new("RGB", (200, 200), "white")
        ImageDraw.Draw(image).ellipse((60, 60, 140, 140), fill=colour)
        return seen(image)

    # Of one brightness: greys are 76 and 75.
    red, green = disc((255, 0, 0)), disc((0, 128, 0))
    known = Known.of(np.stack([look_of(red)]))
    assert Shown(red).closest(known).tolist() == [0]
    assert not Shown(green).closest(known).size


def test_the_signature_rules_out_no_match(pictures, known):
    """Every picture of a cosine that is enough passes it, however little of the look it holds."""
    rng = np.random.default_rng(0)
    own = unit(known.looks[:, 0, :LENGTH])
    for image in pictures:
        pixels = seen(image).astype(np.int16)
        noisy = np.clip(pixels + rng.normal(0, 12, pixels.shape), 0, 255).astype(np.uint8)
        shown = Shown(noisy)
        exact = np.flatnonzero(own @ unit(look_of(noisy)[0, :LENGTH]) >= SAME_PICTURE)
        assert shown._near(known).tolist() == exact.tolist()
