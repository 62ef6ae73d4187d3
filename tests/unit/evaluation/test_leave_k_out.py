"""Leave-K-out: runs that differ only in what was removed, and an effect where there must be one."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from attributary_train.errors import EvaluationError
from attributary_train.evaluation.leave_k_out import OTHER_SEEDS, RANDOM, available, measure, plan_removals
from attributary_train.evaluation.query_loss import Grid, QueryLoss
from attributary_train.evaluation.regenerate import Regenerator, change
from attributary_train.evaluation.retrain import RetrainStore
from attributary_train.subject.checkpoint import load_autoencoder
from attributary_train.subject.data import SubjectData
from attributary_train.subject.queries import Queries
from attributary_train.subject.train import batch_rows

COPIES = 6
GRID = Grid(10, 2)


@pytest.fixture(scope="module")
def planted(subject):
    """Items 0 to 5 are one picture with one caption; the first query shows it, the second shows another."""
    data = subject.data
    latents, text = data.latents.clone(), data.text.clone()
    latents[:COPIES], text[:COPIES] = latents[0], text[0]
    copied = SubjectData(data.ids, data.prompts, latents, text, data.empty, "planted")
    rows = [0, 40]
    queries = Queries(
        ("test-0000", "test-0001"),
        ("test", "test"),
        ("seen", "seen"),
        tuple(data.prompts[row] for row in rows),
        (1, 2),
        latents[rows],
        text[rows],
        subject.model.weights,
        5,
        3.0,
    )
    return copied, queries


@pytest.fixture(scope="module")
def measured(subject, planted, tmp_path_factory, train_here):
    """An oracle that names the copies, and a fool that names six others, for the first query only."""
    data, queries = planted
    recipe = replace(subject.recipe, name="planted", steps=150, learning_rate=3e-3, caption_dropout=0.0)
    scores = {
        "oracle": np.where(np.arange(len(data)) < COPIES, 1.0, 0.0)[None],
        "fool": np.where(np.arange(len(data)) >= len(data) - COPIES, 1.0, 0.0)[None],
    }
    store = RetrainStore(tmp_path_factory.mktemp("planted"), data)
    plan = plan_removals(recipe, len(data), scores, COPIES, random=1, noise=1)
    train_here(store, plan.runs)
    first = queries.take([0])
    pictures = Regenerator(first, load_autoencoder(subject.subject), images=2)
    return measure(store, plan, QueryLoss(first, GRID), pictures), plan, store


def test_removing_the_planted_copies_hurts_more_than_removing_others(measured):
    removals = measured[0].removals
    assert set(removals) == {"oracle", "fool", RANDOM, OTHER_SEEDS}
    # Not beside other seeds: what they change of so small a model hangs on the processor's roundings.
    others = max(removals[name].loss[0] for name in ("fool", RANDOM))
    assert removals["oracle"].loss[0] > 1.5 * max(0.0, others)
    assert removals["oracle"].loss[0] > 0.0
    assert removals["oracle"].minus(removals[RANDOM])["loss"].value > 0.0


def test_pictures_move_and_their_measures_stay_in_range(measured):
    for removal in measured[0].removals.values():
        assert removal.mse.shape == removal.similarity.shape == (1,)
        assert 0.0 < removal.mse[0] < 1.0
        assert -1.0 <= removal.similarity[0] < 1.0


def test_runs_are_paired(subject):
    scores = {
        "a": np.random.default_rng(0).normal(size=(3, 48)),
        "b": np.random.default_rng(1).normal(size=(3, 48)),
    }
    plan = plan_removals(subject.recipe, 48, scores, 4, run_seed=7)
    paired = [plan.base, *plan.random, *plan.methods["a"], *plan.methods["b"]]
    assert {(run.seed, run.init_seed) for run in paired} == {(7, 7)}
    assert all(run.seed != 7 and run.init_seed != 7 and run.kept.all() for run in plan.noise)
    assert len({run.seed for run in plan.noise}) == len(plan.noise)
    assert {int((~run.kept).sum()) for run in paired[1:]} == {4}
    for query in range(3):
        removed = np.flatnonzero(~plan.methods["a"][query].kept)
        assert set(removed) == set(np.argsort(-scores["a"][query])[:4])
        for step in range(5):
            before, after = batch_rows(plan.base, step, 48), batch_rows(plan.methods["a"][query], step, 48)
            stays = ~np.isin(before, removed)
            assert (after[stays] == before[stays]).all()
            assert not np.isin(after, removed).any()


def test_methods_that_remove_the_same_items_share_a_run(subject, store):
    scores = np.random.default_rng(0).normal(size=(3, 48))
    plan = plan_removals(subject.recipe, 48, {"a": scores, "b": 2 * scores}, 4, random=2, noise=1)
    assert len(plan.runs) == 1 + 2 + 1 + 6
    assert len(store.missing(plan.runs)) == 1 + 2 + 1 + 3
    again = plan_removals(subject.recipe, 48, {"a": scores}, 4, random=2, noise=1)
    assert [store.digest(run) for run in again.random] == [store.digest(run) for run in plan.random]


def test_a_query_with_a_failed_run_is_left_out_for_every_method(measured, subject):
    _, plan, store = measured
    broken = replace(plan.methods["fool"][0], seed=999)
    more = replace(
        plan, methods={"oracle": plan.methods["oracle"] * 2, "fool": (plan.methods["fool"][0], broken)}
    )
    ready, kept = available(more, store)
    assert kept == [0]
    assert {name: len(runs) for name, runs in ready.methods.items()} == {"oracle": 1, "fool": 1}
    with pytest.raises(EvaluationError, match="none has a run of every method"):
        available(replace(plan, methods={"fool": (broken,)}), store)
    with pytest.raises(EvaluationError, match="not trained yet"):
        available(replace(plan, random=(broken,)), store)


def test_the_same_model_gives_the_same_pictures_alone_or_among_others(subject):
    made = Regenerator(subject.queries, load_autoencoder(subject.subject), images=2)
    whole, alone = made.pictures(subject.model), made.pictures(subject.model, [3])
    assert whole.pixels.shape == (5, 2, 32, 32, 3)
    assert (alone.pixels == whole.pixels[[3]]).all()
    same = change(whole, made.pictures(subject.model))
    assert same.mse.tolist() == [0.0] * 5
    assert same.similarity == pytest.approx(1.0)
    # The first picture is the query itself: same seed, prompt, steps and guidance.
    torch.testing.assert_close(
        torch.from_numpy(whole.pixels[3, 0]).float() / 255,
        torch.from_numpy(decoded(subject, 3)).float() / 255,
        atol=2 / 255,
        rtol=0,
    )
    assert (whole.pixels[3, 0] != whole.pixels[3, 1]).any()


def decoded(subject, row):
    from attributary_train.generators.latents import decode

    return decode(load_autoencoder(subject.subject), subject.queries.latents[[row]])[0]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"count": 48}, "K: 48; must be between 1 and 47"),
        ({"count": 0}, "K: 0"),
        ({"random": 0}, "random: 0"),
        ({"scores": {}}, "no method"),
        ({"scores": {"random": np.zeros((1, 48))}}, "leave its file out"),
        ({"scores": {"a": np.zeros((1, 48)), "b": np.zeros((2, 48))}}, "different numbers of queries"),
    ],
)
def test_bad_plans_are_named(subject, given, words):
    asked = {"scores": {"a": np.zeros((1, 48))}, "count": 3, **given}
    with pytest.raises(EvaluationError, match=words):
        plan_removals(subject.recipe, 48, **asked)
