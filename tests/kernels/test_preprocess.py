from __future__ import annotations

import os
from unittest import mock

import numpy as np
import PIL
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attributary import kernels
from attributary.errors import InvalidArgumentError
from attributary.kernels import dispatch, reference

RNG = np.random.default_rng(20)
COMPILED = [p for p in dispatch.available() if p != "numpy"]

# Each row is chosen for a branch: plain, tall (Pillow's other order of passes), enlarging, register boundaries of
# the AVX-512 groups (scale 4.3 and 9.6), many taps, windows narrower than a register, one pixel.
SIZES = [
    (512, 512, 224),
    (333, 511, 224),
    (511, 333, 224),
    (801, 512, 224),
    (800, 512, 224),
    (100, 80, 224),
    (1000, 950, 224),
    (960, 970, 224),
    (2200, 2144, 224),
    (2000, 300, 32),
    (300, 2000, 32),
    (4000, 17, 5),
    (17, 4000, 5),
    (1, 1, 224),
    (3, 7, 32),
    (37, 41, 1),
    (6, 900, 1),
    (224, 300, 224),
    (300, 224, 224),
    (225, 230, 224),
]


def picture(height: int, width: int, kind: str) -> np.ndarray:
    if kind == "noise":
        return RNG.integers(0, 256, (height, width, 3), np.uint8)
    if kind == "extremes":  # overshoot of the cubic filter: results must be limited, not wrapped
        return RNG.integers(0, 2, (height, width, 3), np.uint8) * np.uint8(255)
    ramp = np.add.outer(np.arange(height) * 3, np.arange(width) * 2)[..., None] * np.array([1, 2, 3])
    return (ramp % 256).astype(np.uint8)


def test_the_pinned_pillow_is_here() -> None:
    assert PIL.__version__.split(".")[0] == "13", "bit-exactness is promised for the Pillow 13 series"


@pytest.mark.parametrize("kind", ["noise", "extremes", "ramp"])
@pytest.mark.parametrize(("height", "width", "size"), SIZES)
def test_equals_pillow_bit_for_bit(path: str, height: int, width: int, size: int, kind: str) -> None:
    image = picture(height, width, kind)
    np.testing.assert_array_equal(kernels.resize_crop(image, size), reference.resize_crop(image, size))


@settings(max_examples=150, deadline=None)
@given(
    height=st.integers(1, 700),
    width=st.integers(1, 700),
    size=st.integers(1, 130),
    seed=st.integers(0, 2**32 - 1),
    layout=st.sampled_from(["plain", "cropped", "upside down", "mirrored", "planar", "every second row"]),
    level=st.sampled_from(COMPILED or ["numpy"]),
)
def test_any_size_and_any_strides(
    height: int, width: int, size: int, seed: int, layout: str, level: str
) -> None:
    rng = np.random.default_rng(seed)
    if layout == "cropped":
        image = rng.integers(0, 256, (height + 5, width + 7, 3), np.uint8)[2:-3, 3:-4]
    elif layout == "planar":
        image = rng.integers(0, 256, (3, height, width), np.uint8).transpose(1, 2, 0)
    elif layout == "every second row":
        image = rng.integers(0, 256, (height * 2, width, 3), np.uint8)[::2]
    else:
        image = rng.integers(0, 256, (height, width, 3), np.uint8)
        image = {"plain": image, "upside down": image[::-1], "mirrored": image[:, ::-1]}[layout]
    with mock.patch.dict(os.environ, {dispatch.VARIABLE: level}):
        result = kernels.resize_crop(image, size)
    np.testing.assert_array_equal(result, reference.resize_crop(np.ascontiguousarray(image), size))


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_batch_of_different_sizes(path: str, threads: int) -> None:
    images = [
        picture(h, w, "noise") for h, w in [(90, 64), (64, 90), (300, 20), (20, 300), (32, 32), (64, 64)]
    ]
    result = kernels.resize_crop_batch(images, 32, threads=threads)
    for row, image in zip(result, images, strict=True):
        np.testing.assert_array_equal(row, reference.resize_crop(image, 32))


def test_more_sizes_than_plans_are_kept() -> None:
    for _ in range(2):
        for side in range(40, 70):
            image = picture(side, side + 3, "noise")
            np.testing.assert_array_equal(kernels.resize_crop(image, 16), reference.resize_crop(image, 16))


def test_empty_batch(path: str) -> None:
    assert kernels.resize_crop_batch([], 224).shape == (0, 224, 224, 3)


def test_fills_the_array_given(path: str) -> None:
    images = [picture(50, 60, "noise")] * 2
    out = np.zeros((2, 24, 24, 3), np.uint8)
    assert kernels.resize_crop_batch(images, 24, out=out) is out
    np.testing.assert_array_equal(out[1], reference.resize_crop(images[1], 24))


def test_never_writes_outside_its_target(path: str) -> None:
    room = np.full((3, 25, 25, 3), 77, np.uint8)
    kernels.resize_crop_batch([picture(333, 511, "noise")], 25, out=room[1:2])
    assert (room[0] == 77).all()
    assert (room[2] == 77).all()


@pytest.mark.parametrize("shape", [(1, 200_000, 3), (200_000, 1, 3), (2, 500_000, 3), (500_000, 2, 3)])
def test_extreme_aspect_ratio_stays_small(shape: tuple[int, int, int]) -> None:
    """Pillow would need gigabytes for these; the crop of a uniform image is uniform."""
    if not COMPILED:
        pytest.skip("needs the compiled kernels")
    image = np.full(shape, 131, np.uint8)
    assert (kernels.resize_crop(image, 224) == 131).all()


@pytest.mark.parametrize("tall", [False, True])
def test_extreme_aspect_ratio_equals_a_window_of_pillow(path: str, tall: bool) -> None:
    image = picture(3, 5000, "noise")
    image = image.transpose(1, 0, 2) if tall else image
    np.testing.assert_array_equal(
        kernels.resize_crop(image, 16), reference.resize_crop(np.ascontiguousarray(image), 16)
    )


@pytest.mark.parametrize(
    ("image", "size", "field"),
    [
        (np.zeros((4, 4, 4), np.uint8), 8, "images[0]"),
        (np.zeros((4, 4), np.uint8), 8, "images[0]"),
        (np.zeros((0, 4, 3), np.uint8), 8, "images[0]"),
        (np.zeros((4, 4, 3), np.float32), 8, "images[0]"),
        ([[1]], 8, "images[0]"),
        (np.zeros((4, 4, 3), np.uint8), 0, "size"),
        (np.zeros((4, 4, 3), np.uint8), -3, "size"),
        (np.zeros((4, 4, 3), np.uint8), 5000, "size"),
    ],
)
def test_bad_input_is_refused_by_name(path: str, image: np.ndarray, size: int, field: str) -> None:
    with pytest.raises(ValueError) as caught:
        kernels.resize_crop(image, size)
    assert not isinstance(caught.value, InvalidArgumentError)
    assert caught.value.field == field


def test_bad_out_is_refused(path: str) -> None:
    read_only = np.zeros((1, 8, 8, 3), np.uint8)
    read_only.flags.writeable = False
    for out in (read_only, np.zeros((1, 8, 9, 3), np.uint8), np.zeros((1, 8, 8, 3), np.int8)):
        with pytest.raises(kernels.KernelArgumentError, match="out"):
            kernels.resize_crop_batch([np.zeros((9, 9, 3), np.uint8)], 8, out=out)
