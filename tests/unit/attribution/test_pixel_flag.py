"""A picture whose edges are not the generator's pays nobody, whatever its embedding resembles."""

from dataclasses import replace

import numpy as np
import pytest

from attributary.attribution.pixel_statistics import COUNT, pixel_statistics
from attributary.attribution.score import _FLOOR, _OOD, _calibrated, calibration_of
from attributary.attribution.types import Filter, Prepared
from attributary.bundle.manifest import (
    PIXEL_STATISTICS_COUNT,
    Calibration,
    PixelFlag,
    ShareCalibration,
)
from attributary_train.calibration.foreign import flat, gradients, noise, pages
from attributary_train.calibration.pixels import fit_pixels


def soft(count, seed):
    """What a generator may make: soft blots on white."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:32, 0:32]
    made = []
    for _ in range(count):
        paper = np.full((32, 32, 3), 255.0)
        for _ in range(3):
            y, x, wide = *rng.uniform(8, 24, 2), rng.uniform(2, 6)
            ink = np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / 2 / wide**2)[..., None]
            paper -= ink * rng.uniform(0, 200, 3)
        made.append((np.clip(paper, 0, 255) + rng.uniform(0, 2)).clip(0, 255).astype(np.uint8))
    return np.stack(made)


@pytest.fixture(scope="module")
def flag():
    return fit_pixels(pixel_statistics(soft(600, 0)), 0.02)


def test_the_manifest_knows_how_many_statistics_there_are():
    assert COUNT == PIXEL_STATISTICS_COUNT
    assert pixel_statistics(soft(2, 0)).shape == (2, COUNT)


@pytest.mark.parametrize("foreign", [flat, gradients, noise, pages])
def test_kinds_that_were_never_fitted_are_flagged_and_alarms_are_few(flag, foreign):
    found = flag.certainty(pixel_statistics(np.stack(foreign(40, 32, 1))))
    assert (found == 0).mean() >= 0.95
    assert (flag.certainty(pixel_statistics(soft(500, 2))) == 0).mean() <= 0.05


def test_a_picture_is_judged_alone_as_in_any_batch(flag):
    for side in (32, 33, 64, 224):
        pixels = np.random.default_rng(side).integers(0, 255, (9, side, side, 3), np.uint8)
        pixels[3:6] = np.linspace(0, 255, side).astype(np.uint8)[:, None, None]
        told = flag.distance(pixel_statistics(pixels))
        alone = [flag.distance(pixel_statistics(pixels[row : row + 1]))[0] for row in range(9)]
        np.testing.assert_array_equal(told, alone)


def test_shares_rise_from_nothing_at_the_limit(flag):
    statistics = pixel_statistics(soft(1, 3))
    at = float(flag.distance(statistics)[0])
    told = [
        replace(flag, limit=at + over * 0.5, margin=0.5).certainty(statistics)[0]
        for over in (-0.1, 0, 0.5, 1)
    ]
    assert told[:2] == [0, 0] and told[2] == pytest.approx(0.5) and told[3] == pytest.approx(1.0)


def test_too_few_pictures_give_no_flag():
    assert not fit_pixels(pixel_statistics(soft(100, 0)), 0.05)


def test_foreign_pixels_are_above_any_similarity_and_an_embedding_alone_is_not_judged(flag):
    shares = ShareCalibration(0.1, 0.0, 0.5, 0.2, diffuse_floor=0.25)
    known = Calibration("test", shares, shares, flag)
    own, foreign = soft(1, 4)[0], np.stack(noise(1, 32))[0]
    asked = [Prepared(1, 1, Filter(), False, pixels=pixels) for pixels in (own, foreign, None)]
    rows = _calibrated(known, asked)
    plain = calibration_of(known, [False])[0]
    assert rows[0, _FLOOR] < 1 and rows[0, _OOD] == plain[_OOD]
    assert np.isposinf(rows[1, _OOD])
    np.testing.assert_array_equal(rows[2], plain)
    # An item's own picture is known for sure.
    own_picture = Prepared(1, 1, Filter(), False, pixels=foreign, showing=np.array([3]))
    np.testing.assert_array_equal(_calibrated(known, [own_picture])[0], plain)
    # A query is judged alone as in any batch.
    np.testing.assert_array_equal(_calibrated(known, asked[1:2])[0], rows[1])


@pytest.mark.parametrize(
    "damage", [{"statistics": "other"}, {"mean": (0.0,)}, {"limit": float("nan")}, {"margin": -1.0}]
)
def test_a_flag_that_is_not_one_is_refused_by_name(flag, damage):
    assert flag.problem() is None and PixelFlag().problem() is None
    assert replace(flag, **damage).problem()
