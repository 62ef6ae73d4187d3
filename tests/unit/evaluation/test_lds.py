"""The linear datamodelling score on worlds where the right answer is known."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import spearmanr

from attributary_train.errors import EvaluationError
from attributary_train.evaluation.lds import (
    SECOND_SEED,
    Lds,
    difference,
    lds_rows,
    plan_subsets,
    random_subsets,
    seed_ceiling,
)
from attributary_train.subject.recipe import preset

QUERIES, ITEMS, SUBSETS = 12, 80, 32


@pytest.fixture(scope="module")
def world():
    """Influences, subsets, and outputs that are exactly the sums of the influences of what was kept."""
    rng = np.random.default_rng(0)
    influence = rng.normal(size=(QUERIES, ITEMS))
    masks = random_subsets(ITEMS, SUBSETS)
    return influence, masks, influence @ masks.T


def test_an_exact_linear_oracle_scores_1_and_its_opposite_minus_1(world):
    influence, masks, outputs = world
    assert lds_rows(influence, masks, outputs) == pytest.approx(1.0)
    assert lds_rows(-influence, masks, outputs) == pytest.approx(-1.0)
    assert Lds(masks, outputs, draws=50).of(influence.astype(np.float32)).by_both.value == pytest.approx(1.0)


def test_it_is_scipys_correlation_of_summed_scores(world):
    influence, masks, outputs = world
    noisy = influence + np.random.default_rng(1).normal(size=influence.shape)
    wanted = [spearmanr([noisy[q][m].sum() for m in masks], outputs[q]).statistic for q in range(QUERIES)]
    assert lds_rows(noisy, masks, outputs) == pytest.approx(wanted)


def test_a_large_common_offset_is_no_signal_and_no_harm(world):
    influence, masks, outputs = world
    offset = (influence + 1e4).astype(np.float32)
    assert lds_rows(offset, masks, outputs).min() > 0.99


def test_scores_by_lot_are_near_zero_and_worse_scores_score_less(world):
    influence, masks, outputs = world
    rng = np.random.default_rng(2)
    lds = Lds(masks, outputs, draws=300)
    oracle = lds.of(influence)
    noisy = lds.of(influence + 2 * rng.normal(size=influence.shape))
    lot = lds.of(rng.random(influence.shape))
    assert oracle.by_both.value > noisy.by_both.value > lot.by_both.value
    assert lot.by_both.low < 0.0 < lot.by_both.high
    assert difference(noisy, lot).above(0.0)
    assert not difference(lot, lds.of(rng.random(influence.shape))).above(0.0)
    # Queries and subsets together leave more room than either alone.
    width = {name: getattr(noisy, name) for name in ("by_queries", "by_subsets", "by_both")}
    width = {name: found.high - found.low for name, found in width.items()}
    assert width["by_both"] > max(width["by_queries"], width["by_subsets"])


def test_subsets_are_halves_repeatable_and_the_same_for_any_count():
    masks = random_subsets(81, 10, seed=5)
    assert set(masks.sum(axis=1)) == {40}
    assert (random_subsets(81, 4, seed=5) == masks[:4]).all()
    assert (random_subsets(81, 10, seed=6) != masks).any()
    assert len({mask.tobytes() for mask in masks}) == 10


def test_all_subsets_are_trained_with_the_same_start_and_order_and_some_with_another():
    plan = plan_subsets(preset("tiny"), ITEMS, 6, 2, run_seed=3)
    assert {(run.seed, run.init_seed) for run in plan.first} == {(3, 3)}
    assert {(run.seed, run.init_seed) for run in plan.second} == {(3 + SECOND_SEED, 3 + SECOND_SEED)}
    assert all((a.kept == b.kept).all() for a, b in zip(plan.first, plan.second, strict=False))
    assert len(plan.runs) == 8


def test_a_subset_sees_each_item_as_often_as_the_full_run():
    recipe = preset("tiny")
    plan = plan_subsets(recipe, ITEMS, 4, 1, fraction=0.25)
    assert {run.recipe.steps for run in plan.runs} == {recipe.steps // 4}
    assert {replace(run.recipe, steps=recipe.steps) for run in plan.runs} == {recipe}


def test_the_ceiling_falls_with_the_noise_of_retraining():
    rng = np.random.default_rng(3)
    signal = rng.normal(size=(40, 60))
    one, other = (signal + 0.5 * rng.normal(size=signal.shape) for _ in range(2))
    found = seed_ceiling(one, other)
    # Variance 1 of signal, 0.25 of noise: the two correlate by 0.8, ranks a little less; signal and one by the root.
    assert found.agreement.value == pytest.approx(0.78, abs=0.04)
    assert found.reachable == pytest.approx(np.sqrt(found.agreement.value))
    assert np.mean([spearmanr(a, b).statistic for a, b in zip(signal, one, strict=True)]) == pytest.approx(
        found.reachable, abs=0.03
    )
    assert seed_ceiling(one, one).reachable == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: random_subsets(10, 2), "subsets: 2; .* at least 3"),
        (lambda: random_subsets(10, 5, fraction=1.0), "fraction: 1.0"),
        (lambda: random_subsets(3, 5, fraction=0.05), "keeps 0"),
        (lambda: plan_subsets(preset("tiny"), 10, 4, 5), "second: 5 subsets trained twice, of 4"),
        (lambda: Lds(np.ones((4, 3), bool), np.full((2, 4), np.nan)), "8 losses are not finite"),
        (lambda: Lds(np.ones((4, 3), bool), np.zeros((2, 5))), "must be .queries, 4 subsets"),
        (lambda: lds_rows(np.zeros((2, 9)), np.ones((4, 3), bool), np.zeros((2, 4))), "9 items"),
        (lambda: seed_ceiling(np.zeros((3, 2)), np.zeros((3, 2))), "2 subsets trained twice"),
    ],
)
def test_bad_settings_are_named(call, words):
    with pytest.raises(EvaluationError, match=words):
        call()
