"""Intervals of creators' shares: as many hold the truth as they say."""

from dataclasses import replace

import numpy as np
import pytest

from attributary.bundle.manifest import ShareCalibration
from attributary_train.calibration.interval import coverage, creator_interval, creator_intervals
from attributary_train.calibration.report import _interval_aim

PLAIN = ShareCalibration(0.1, 0.0, 0.5, 0.0)


def pairs(count, seed):
    rng = np.random.default_rng(seed)
    told = rng.beta(0.7, 4, count)
    return told, np.clip(told + 0.5 * told * rng.standard_normal(count), 0, 1)


def test_nine_in_ten_of_other_pairs_are_covered():
    made = replace(PLAIN, interval=creator_interval(*pairs(1600, 0), 8))
    assert made.problem() is None and len(made.interval) == 8
    told, seen = pairs(4000, 1)
    found = coverage(made, told[:, None], seen[:, None])
    assert found["covered"] == pytest.approx(0.9, abs=0.03) and 0 < found["width"] < 0.5
    low, high = made.between(told)
    assert (low <= told).all() and (told <= high).all()


def test_too_few_pairs_give_none_and_few_give_one_row():
    assert creator_interval(*pairs(30, 2), 8) == ()
    assert len(creator_interval(*pairs(50, 2), 8)) == 1
    assert coverage(PLAIN, *(one[:, None] for one in pairs(50, 2)))["covered"] is None


def test_masses_that_stand_for_others_stay_within_one():
    told, seen = pairs(400, 3)
    table = np.array(creator_interval(told, seen * 8, 8))
    assert table.min() >= 0 and table.max() <= 1
    assert (np.diff(table, axis=0) >= 0).all()


def test_creators_who_mostly_hold_nothing_are_not_told_too_wide_an_interval():
    rng = np.random.default_rng(4)

    def mostly_nothing(count):
        return rng.uniform(0.01, 0.1, count), rng.exponential(0.05, count) * (rng.random(count) < 0.7)

    made = replace(PLAIN, interval=creator_interval(*mostly_nothing(1600), 8))
    told, seen = mostly_nothing(4000)
    # Between two twentieths it would hold 95%: nobody lies below 0.
    assert coverage(made, told[:, None], seen[:, None])["covered"] == pytest.approx(0.9, abs=0.03)


def test_a_constant_interval_stands_beside_and_wins_where_shares_say_nothing():
    told, seen = pairs(1600, 5)
    made, same = (replace(PLAIN, interval=creator_interval(told, seen, bins)) for bins in (8, 1))
    told, seen = pairs(4000, 6)
    found = coverage(made, told[:, None], seen[:, None], same)
    assert found["skill"] > 0.1 and found["width"] < found["constant"]["width"]
    assert found["low"] < found["covered"] < found["high"]
    # Creators with nothing told are not counted.
    assert coverage(made, np.zeros((4, 2)), np.zeros((4, 2)), same)["pairs"] == 0
    # What holds as often but no better than a constant is not called met.
    row = {**found, "covered": 0.9}
    assert _interval_aim(row, "image")["met"] and not _interval_aim({**row, "skill": 0.0}, "image")["met"]


def asked(queries, seed, creators=18):
    """Told shares and masses of queries whose creators depend on each other: some are told worse than others."""
    rng = np.random.default_rng(seed)
    told = rng.dirichlet(np.full(creators, 0.3), queries)
    off = np.exp(0.7 * rng.standard_normal((queries, 1)) + 0.5 * rng.standard_normal(told.shape))
    return told, np.where(rng.random(told.shape) < 0.2, 0.0, told * off)


def test_nine_in_ten_are_held_of_queries_that_a_table_was_not_made_of():
    """A table as fine as this used to hold too much: ends were rounded up in each bin, and joined by their maxima."""
    found = []
    for seed in range(6):
        made = creator_intervals(*asked(100, seed))
        assert made.covered == pytest.approx(0.9, abs=0.01)
        told, seen = asked(400, 100 + seed)
        table = replace(PLAIN, interval=made.table)
        assert table.problem() is None
        found.append(coverage(table, told, seen)["covered"])
        assert abs(found[-1] - 0.9) < 4 * made.deviation
    assert np.mean(found) == pytest.approx(0.9, abs=0.012)


def test_the_number_of_bins_is_the_one_that_scores_best_elsewhere():
    told, seen = asked(100, 7)
    coarse, chosen = creator_intervals(told, seen, (1,)), creator_intervals(told, seen)
    assert len(coarse.table) == 1 and len(chosen.table) > 1 and chosen.score < coarse.score
    assert creator_intervals(told[:1], seen[:1]).table == ()


def test_those_who_hold_nothing_are_told_apart():
    told = np.full((20, 40), 0.01)
    seen = np.where(np.arange(40) < 20, 0.0, 0.5)[None].repeat(20, axis=0)
    made = replace(PLAIN, interval=((0.01, 0.0, 0.02),))
    found = coverage(made, told, seen)
    # Half of them are held, and only since they have nothing.
    assert found["covered"] == 0.5 and found["covered of those who hold something"] == 0
    assert found["hold nothing"] == 0.5
