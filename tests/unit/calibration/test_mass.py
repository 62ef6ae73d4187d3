"""A teacher's mass: the zero, the floor, the diffuse rest, near duplicates, candidates that stand for others."""

import numpy as np
import pytest

from attributary_train.calibration.mass import stand_for, teacher_mass, weighted_median
from attributary_train.errors import CalibrationError


def scores(seed=0, items=1000, strong=10, height=30.0):
    rng = np.random.default_rng(seed)
    found = 5.0 + rng.standard_normal(items)
    found[:strong] += height * np.linspace(1, 0.5, strong)
    return found


def test_strong_items_hold_the_mass_and_the_rest_is_diffuse():
    found = scores()
    mass = teacher_mass(found, np.ones(len(found)))
    assert (mass.items[:10] > 0).all() and (mass.items[10:] > 0).sum() <= 5
    assert mass.items.sum() + mass.diffuse == pytest.approx(1)
    rise = np.clip(found - mass.zero, 0, None)
    assert mass.items[0] == pytest.approx(rise[0] / rise.sum())
    assert mass.zero == pytest.approx(5.0, abs=0.1) and mass.floor == pytest.approx(8.0, abs=0.4)


def test_a_common_offset_and_scale_change_nothing():
    found = scores()
    mass, other = (teacher_mass(values, np.ones(len(found))) for values in (found, 3 * found + 100))
    assert np.allclose(mass.items, other.items) and mass.diffuse == pytest.approx(other.diffuse)


def test_noise_alone_is_diffuse():
    mass = teacher_mass(scores(strong=0), np.ones(1000))
    assert mass.diffuse > 0.97


def test_near_duplicates_count_once():
    found = scores(height=100.0, strong=4)
    groups = np.arange(1000)
    alone = teacher_mass(np.delete(found, 1), np.ones(999))
    found[1] = found[0]
    groups[1] = 0
    together = teacher_mass(found, np.ones(1000), groups)
    assert together.items[0] == pytest.approx(together.items[1])
    assert together.items[:2].sum() == pytest.approx(alone.items[0], rel=0.01)
    assert together.items.sum() + together.diffuse == pytest.approx(1)


def test_random_candidates_stand_for_the_rest():
    found = scores(strong=60)
    everything = teacher_mass(found, np.ones(1000))
    order = np.argsort(-found)
    near, rest = order[:100], order[100:]
    diffuse, first = [], []
    for seed in range(40):
        pick = np.random.default_rng(seed).permutation(rest)[:100]
        chosen = np.concatenate([near, pick])
        mass = teacher_mass(found[chosen], stand_for(200, 100, 1000))
        assert float((mass.weights * mass.items).sum()) + mass.diffuse == pytest.approx(1)
        diffuse.append(mass.diffuse)
        first.append(mass.items[0])
    assert np.mean(diffuse) == pytest.approx(everything.diffuse, abs=0.02)
    assert np.mean(first) == pytest.approx(everything.items[order[0]], rel=0.05)


def test_weights_say_how_many_items_a_candidate_stands_for():
    assert stand_for(5, 2, 11).tolist() == [1, 1, 3, 3, 3]
    assert stand_for(4, 4, 4).tolist() == [1, 1, 1, 1]
    for wrong in ((5, 6, 10), (5, 2, 4)):
        with pytest.raises(CalibrationError, match="must not grow"):
            stand_for(*wrong)
    with pytest.raises(CalibrationError, match="without random others"):
        stand_for(5, 5, 10)


def test_weighted_median():
    assert weighted_median(np.array([3.0, 1.0, 2.0]), np.ones(3)) == 2
    assert weighted_median(np.array([4.0, 1.0, 2.0, 3.0]), np.ones(4)) == 2.5
    assert weighted_median(np.array([1.0, 9.0]), np.array([1.0, 5.0])) == 9


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros(10), "10 candidates; at least 20"),
        (np.zeros(30), "none is above the median"),
        (np.full(30, np.nan), "30 are not finite"),
        (np.zeros((3, 10)), r"both must be \[C\]"),
    ],
)
def test_scores_that_say_nothing(values, message):
    with pytest.raises(CalibrationError, match=message):
        teacher_mass(values, np.ones(values.shape))
