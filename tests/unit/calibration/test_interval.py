"""Intervals of creators' shares: as many hold the truth as they say."""

from dataclasses import replace

import numpy as np
import pytest

from attributary.bundle.manifest import ShareCalibration
from attributary_train.calibration.interval import coverage, creator_interval

PLAIN = ShareCalibration(0.1, 0.0, 0.5, 0.0)


def pairs(count, seed):
    rng = np.random.default_rng(seed)
    told = rng.beta(0.7, 4, count)
    return told, np.clip(told + 0.5 * told * rng.standard_normal(count), 0, 1)


def test_nine_in_ten_of_other_pairs_are_covered():
    made = replace(PLAIN, interval=creator_interval(*pairs(1600, 0)))
    assert made.problem() is None and len(made.interval) == 8
    told, seen = pairs(4000, 1)
    found = coverage(made, told, seen)
    assert found["covered"] == pytest.approx(0.9, abs=0.03) and 0 < found["width"] < 0.5
    low, high = made.between(told)
    assert (low <= told).all() and (told <= high).all()


def test_too_few_pairs_give_none_and_few_give_one_row():
    assert creator_interval(*pairs(30, 2)) == ()
    assert len(creator_interval(*pairs(50, 2))) == 1
    assert coverage(PLAIN, *pairs(50, 2))["covered"] is None


def test_masses_that_stand_for_others_stay_within_one():
    told, seen = pairs(400, 3)
    table = np.array(creator_interval(told, seen * 8))
    assert table.min() >= 0 and table.max() <= 1
    assert (np.diff(table, axis=0) >= 0).all()
