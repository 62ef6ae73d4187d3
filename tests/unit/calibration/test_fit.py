"""Shares as the kernel computes them, fitted to a mass that is known; reliability; the flag's threshold."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attributary import kernels
from attributary.attribution.score import calibration_of
from attributary.bundle.manifest import Calibration, ShareCalibration
from attributary_train.calibration.fit import Target, fit_shares, likely_reach, log_losses
from attributary_train.calibration.mass import Mass
from attributary_train.calibration.ood import SCORES, auroc, detection, threshold
from attributary_train.calibration.reliability import reliability
from attributary_train.errors import CalibrationError
from attributary_train.evaluation.shares import Columns, shares_of

TRUE = ShareCalibration(temperature=0.08, threshold=0.02, background=0.55, ood_similarity=0.3)


def cosines(queries=60, items=150, seed=0):
    rng = np.random.default_rng(seed)
    return np.clip(0.2 + 0.2 * rng.standard_normal((queries, items)), -1, 1).astype(np.float32)


@given(
    seed=st.integers(0, 1000),
    temperature=st.floats(0.01, 1.0),
    cut=st.floats(0.0, 0.5),
    background=st.floats(-1.0, 1.2),
    floor=st.sampled_from([0.0, 0.2]),
    candidates=st.integers(1, 30),
    reach=st.sampled_from([0, 1, 3, 8, 40]),
    known=st.sampled_from([(-1.0, 0.0), (0.9, 0.0), (0.9, 0.4), (1.1, 0.5)]),
    tail=st.sampled_from([(1.0, 1.0), (0.7, 40.0), (0.0, 0.5)]),
)
@settings(max_examples=40, deadline=None)
def test_the_formula_is_the_kernel_s(
    seed, temperature, cut, background, floor, candidates, reach, known, tail
):
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((30, 16)).astype(np.float32)
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)
    queries = vectors[:3].astype(np.float32)
    groups = rng.integers(0, 12, 30).astype(np.int32)
    similarity = queries @ vectors.astype(np.float32).T
    chosen = np.argsort(-similarity, axis=1)[:, :candidates].astype(np.int64)
    asked = ShareCalibration(temperature, cut, background, known[0], floor, known[1], reach, *tail)
    scored = kernels.rescore(
        queries, np.ascontiguousarray(chosen), vectors, groups, groups,
        calibration_of(Calibration("test", asked, asked), [False] * 3),
        top_k=30, top_creators=0,
    )  # fmt: skip
    told, diffuse = shares_of(similarity, Columns.of(groups), asked, candidates)
    served = np.zeros_like(told)
    for row in range(3):
        places = scored.rows[row] >= 0
        served[row, scored.rows[row][places]] = scored.share[row][places]
    assert np.allclose(told, served, atol=2e-4)
    assert np.allclose(diffuse, scored.diffuse, atol=2e-4)
    assert np.allclose(told.sum(axis=1) + diffuse, 1)


def whole(mass, diffuse):
    """A target of a teacher who was asked about every item."""
    return Target(mass, diffuse, np.ones_like(mass))


def test_parameters_that_made_a_mass_are_found():
    similarity, columns = cosines(), Columns.of(np.arange(150))
    smooth = ShareCalibration(TRUE.temperature, 0.0, TRUE.background, 0.3, reach=12)
    mass, diffuse = shares_of(similarity, columns, smooth)
    fitted = fit_shares(similarity, columns, whole(mass, diffuse), ood_similarity=0.3, ood_margin=0.05)
    found = fitted.calibration
    assert found.temperature == pytest.approx(TRUE.temperature, rel=0.05) and found.reach == 12
    assert (found.ood_similarity, found.ood_margin) == (0.3, 0.05)
    told, nobody = shares_of(similarity, columns, found)
    assert np.abs(told - mass).max() < 0.02 and np.abs(nobody - diffuse).max() < 0.02


def test_what_the_crowd_beyond_weighs_is_found():
    """Shares that end with a step, and much that is nobody's: with one weight cut from all they were told too small at
    the top, too large in the middle and nothing at the end."""
    similarity, columns = cosines(), Columns.of(np.arange(150))
    made = ShareCalibration(
        TRUE.temperature, 0.0, TRUE.background, 0.3, reach=12, reach_cut=0.5, reach_null=20.0
    )
    mass, diffuse = shares_of(similarity, columns, made)
    found = fit_shares(similarity, columns, whole(mass, diffuse), ood_similarity=0.3).calibration
    told, nobody = shares_of(similarity, columns, found)
    assert np.abs(told - mass).max() < 0.02 and np.abs(nobody - diffuse).max() < 0.02
    named = mass > 0
    assert (told[named] / mass[named]).min() > 0.8 and (told[~named] == 0).all()


def test_equals_of_the_first_out_of_reach_are_out_as_well():
    similarity = np.array([[0.9, 0.5, 0.5, 0.5, 0.5, 0.2]], np.float32)
    shares = ShareCalibration(0.1, 0.0, 0.3, -1.0, reach=3, reach_cut=0.2, reach_null=2.0)
    told, _ = shares_of(similarity, Columns.of(np.arange(6)), shares)
    assert told[0, 0] > 0 and not told[0, 1:].any()


def test_what_lies_beyond_the_likely_ones_is_nobody_s():
    """A tail that is real on average and of nobody in particular: it used to be paid, by the number of items."""
    rng = np.random.default_rng(5)
    similarity, columns = cosines(80), Columns.of(np.arange(150))
    order = np.argsort(-similarity, axis=1)
    mass = np.zeros((80, 150))
    np.put_along_axis(mass, order[:, :5], 0.1, axis=1)
    # Beyond the fifth, one item in ten holds something, wherever it lies.
    tail = order[:, 5:]
    np.put_along_axis(mass, tail, rng.random(tail.shape) < 0.1, axis=1)
    mass[np.arange(80)[:, None], tail] *= 0.02
    target = whole(mass, 1 - mass.sum(axis=1))
    assert likely_reach(similarity, columns, target) == 5
    fitted = fit_shares(similarity, columns, target, ood_similarity=-1.0)
    told, nobody = shares_of(similarity, columns, fitted.calibration)
    assert np.take_along_axis(told, tail, axis=1).max() == 0
    assert fitted.hidden == pytest.approx(np.take_along_axis(mass, tail, axis=1).sum(axis=1).mean())
    assert nobody.mean() == pytest.approx(0.5, abs=0.05)


def test_copies_push_nobody_out_of_reach():
    similarity = np.linspace(0.9, 0.1, 20, dtype=np.float32)[None]
    shares = ShareCalibration(0.1, 0.0, 0.5, -1.0, reach=4)
    plain, _ = shares_of(similarity, Columns.of(np.arange(20)), shares)
    # Six copies of the first item join: they share what it had.
    copied = np.concatenate([np.full((1, 6), 0.9, np.float32), similarity], axis=1)
    groups = np.r_[np.zeros(6, int), np.arange(20)]
    told, _ = shares_of(copied, Columns.of(groups), shares)
    assert np.allclose(told[0, 7:], plain[0, 1:]) and np.isclose(told[0, :7].sum(), plain[0, 0])


def test_shares_rise_steadily_from_the_flag_s_threshold():
    similarity = np.stack([np.linspace(best, -0.2, 30) for best in np.linspace(0.28, 0.5, 400)])
    shares = ShareCalibration(0.1, 0.0, 0.3, 0.3, ood_margin=0.1, reach=8)
    told, nobody = shares_of(similarity.astype(np.float32), Columns.of(np.arange(30)), shares)
    assert (nobody[similarity.max(axis=1) < 0.299] == 1).all()
    assert np.abs(np.diff(nobody)).max() < 0.01 and nobody.min() < 0.6
    assert np.allclose(told.sum(axis=1) + nobody, 1)


def test_a_floor_under_the_diffuse_part_is_found():
    similarity, columns = cosines(), Columns.of(np.arange(150))
    asked = ShareCalibration(TRUE.temperature, 0.0, TRUE.background, 0.3, diffuse_floor=0.3)
    mass, diffuse = shares_of(similarity, columns, asked)
    assert diffuse[(similarity.max(axis=1) > 0.3)].min() > 0.3 and np.allclose(mass.sum(axis=1) + diffuse, 1)
    found = fit_shares(similarity, columns, whole(mass, diffuse), ood_similarity=0.3).calibration
    assert found.temperature == pytest.approx(TRUE.temperature, rel=0.02)
    _, nobody = shares_of(similarity, columns, found)
    assert 0.29 <= found.diffuse_floor < 0.33 and np.abs(nobody - diffuse).max() < 0.03


def test_the_background_stays_above_the_flag_s_threshold():
    similarity, columns = cosines(), Columns.of(np.arange(150))
    mass, diffuse = shares_of(similarity, columns, ShareCalibration(0.08, 0.0, -1.0, 0.3, diffuse_floor=0.2))
    found = fit_shares(similarity, columns, whole(mass, diffuse), ood_similarity=0.3).calibration
    assert found.background >= 0.3


def test_a_mass_with_zeros_gives_zeros():
    similarity, columns = cosines(), Columns.of(np.arange(150))
    mass, diffuse = shares_of(similarity, columns, TRUE)
    fitted = fit_shares(similarity, columns, whole(mass, diffuse), ood_similarity=0.3)
    told, _ = shares_of(similarity, columns, fitted.calibration)
    assert (told == 0).mean() > 0.2 and fitted.hidden < 0.2


def test_a_noisy_teacher_gives_calibrated_shares():
    similarity, columns = cosines(200), Columns.of(np.arange(150))
    mean, diffuse = shares_of(similarity, columns, TRUE)
    rng = np.random.default_rng(1)
    both = np.concatenate([mean, diffuse[:, None]], axis=1)
    drawn = np.stack([rng.dirichlet(20 * row + 1e-9) for row in both])
    fitted = fit_shares(
        similarity[:100], columns, whole(drawn[:100, :-1], drawn[:100, -1]), ood_similarity=0.3
    )
    told, nobody = shares_of(similarity[100:], columns, fitted.calibration)
    top = np.argsort(-similarity[100:], axis=1)[:, :10]
    queries = np.repeat(np.arange(100), 10)
    error = reliability(
        np.take_along_axis(told, top, 1).ravel(),
        np.take_along_axis(drawn[100:, :-1], top, 1).ravel(),
        queries,
    ).error
    assert error.value < 0.02
    # Shares that are made twice as sharp are not calibrated, and it shows.
    sharp = ShareCalibration(fitted.calibration.temperature / 3, 0.0, fitted.calibration.background, 0.3)
    wrong, _ = shares_of(similarity[100:], columns, sharp)
    worse = reliability(
        np.take_along_axis(wrong, top, 1).ravel(),
        np.take_along_axis(drawn[100:, :-1], top, 1).ravel(),
        queries,
    ).error
    assert worse.value > 2 * error.value
    target = whole(drawn[100:, :-1], drawn[100:, -1])
    assert log_losses(target, told, nobody).mean() < log_losses(target, *shares_of(
        similarity[100:], columns, sharp
    )).mean()  # fmt: skip


def test_masses_land_on_their_items():
    mass = Mass(np.array([0.5, 0.05]), 0.3, np.array([1.0, 4.0]), 0.0, 1.0)
    target = Target.of([mass], [np.array([3, 1])], 5)
    assert target.mass.tolist() == [[0, 0.2, 0, 0.5, 0]] and target.diffuse.tolist() == [0.3]
    assert target.stands_for.tolist() == [[0, 4, 0, 1, 0]]


def test_too_few_queries_are_refused():
    similarity = cosines(5)
    with pytest.raises(CalibrationError, match="queries: 5; at least 10"):
        fit_shares(
            similarity, Columns.of(np.arange(150)), whole(similarity, similarity[:, 0]), ood_similarity=0
        )


def test_reliability_counts_what_is_off():
    told = np.repeat([0.1, 0.4], 500)
    exact = reliability(told, told, np.arange(1000) % 50)
    assert exact.error.value == pytest.approx(0) and exact.absolute == pytest.approx(0)
    off = reliability(told, told + 0.05, np.arange(1000) % 50)
    assert off.error.value == pytest.approx(0.05) and len(off.bins) == 10
    assert sum(one.count for one in off.bins) == 1000
    assert off.error.low <= off.error.value <= off.error.high
    # Errors of both signs in one bin cancel, as calibration means; the absolute error stands beside it.
    mixed = reliability(np.full(1000, 0.2), np.tile([0.0, 0.4], 500), np.arange(1000) % 50)
    assert mixed.error.value == pytest.approx(0, abs=1e-9) and mixed.absolute == pytest.approx(0.2)
    with pytest.raises(CalibrationError, match="none to compare"):
        reliability([], [], [])


def test_the_flag_s_threshold_lets_the_asked_share_through():
    inside = cosines(400, 50)
    cut = threshold(SCORES["best cosine"](inside), 0.05)
    assert (SCORES["best cosine"](inside) < cut).mean() == pytest.approx(0.05, abs=0.004)
    with pytest.raises(CalibrationError, match="at least 50"):
        threshold(np.zeros(49))


def test_detection_tells_foreign_pictures_apart():
    inside, test, outside = cosines(100, 50), cosines(100, 50, 1), cosines(80, 50, 2) * 0.3
    rows = detection(inside, test, {"far": outside, "same": cosines(80, 50, 3)}, 0.05)
    best = next(row for row in rows if row["score"] == "best cosine")
    assert best["far"]["detected"] == 1 and best["far"]["auroc"] == 1
    assert best["same"]["detected"] < 0.2 and 0.4 < best["same"]["auroc"] < 0.6
    assert best["false alarms"] < 0.2
    assert auroc(np.ones(4), np.ones(4)) == 0.5
