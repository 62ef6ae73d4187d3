"""Losses under complementary halves: the plan, what is kept, and going on after an end."""

import numpy as np
import pytest

from attributary_train.errors import EvaluationError
from attributary_train.evaluation.bench import open_world
from attributary_train.evaluation.half_plan import (
    creator_masks,
    creators_of,
    half_masks,
    plan_by_creator,
    plan_creators,
    plan_halves,
)
from attributary_train.evaluation.halves import EveryLoss, Truth, train_halves, write_masks
from attributary_train.evaluation.query_loss import Grid, QueryLoss, mean_losses


def test_the_plan_halves_the_steps_and_puts_second_seeds_early(subject):
    masks = half_masks(len(subject.data), 4)
    plan = plan_halves(subject.recipe, masks, 2, 1)
    assert [half.name for half in plan[:5]] == [
        "half-000",
        "half-001",
        "half-002",
        "half-003",
        "half-000-second",
    ]
    assert len(plan) == 8 + 2 + 1 and plan[-1].subset == -1
    assert plan[0].run.recipe.steps == round(subject.recipe.steps / 2)
    assert plan[-1].run.recipe.steps == subject.recipe.steps and plan[-1].run.kept.all()
    # A model of all items with the seed under study would be the one that made the queries.
    assert plan[-1].run.seed != subject.recipe.seed
    assert plan[4].run.seed != plan[0].run.seed and np.array_equal(plan[4].run.kept, plan[0].run.kept)
    with pytest.raises(EvaluationError, match="second"):
        plan_halves(subject.recipe, masks, 9, 0)


def test_creators_are_left_out_one_by_one_beside_models_of_all_items(subject):
    hands = [subject.corpus.item(int(number)).creator for number in subject.data.ids]
    names = creators_of(hands, 8, 20)
    assert names == sorted(set(hands)) and creators_of(hands, 1, 8) == []
    plan = plan_creators(subject.recipe, hands, names)
    assert len(plan) == 2 * len(names)
    first = plan[0].run
    assert [hand == names[0] for hand in hands] == (~first.kept).tolist()
    whole = plan_halves(subject.recipe, half_masks(len(subject.data), 2), 0, 2)[-2:]
    assert [half.run.seed for half in whole] == [first.seed, plan[len(names)].run.seed]
    assert whole[0].run.recipe == first.recipe
    with pytest.raises(EvaluationError, match="'nobody'"):
        plan_creators(subject.recipe, hands, ["nobody"])


def test_halves_by_creator_hold_whole_creators_and_as_many_items(subject):
    hands = ["big"] * 40 + ["second"] * 25 + ["third"] * 25 + [f"small {at // 5}" for at in range(50)]
    masks = creator_masks(hands, 12)
    assert np.array_equal(masks[1::2], ~masks[::2])
    assert np.abs(masks.sum(axis=1) - 70).max() <= 5
    of = {name: masks[:, [hand == name for hand in hands]] for name in set(hands)}
    assert all((side == side[:, :1]).all() for side in of.values())
    # Any two creators are apart in some pairs and together in others.
    for one, other in (("big", "second"), ("second", "third"), ("small 1", "small 2")):
        assert 0 < (of[one][::2, 0] == of[other][::2, 0]).sum() < 12
    assert np.array_equal(creator_masks(hands, 20)[:24], masks)
    assert not np.array_equal(creator_masks(hands, 12, seed=1), masks)
    plan = plan_by_creator(subject.recipe, masks)
    assert [half.name for half in plan[:2]] == ["creators-half-000", "creators-half-001"]
    assert plan[0].run.recipe.steps == round(subject.recipe.steps / 2)
    with pytest.raises(EvaluationError, match="1 creators"):
        creator_masks(["one"] * 9, 4)
    # Whoever has more than half of all items is alone.
    most = creator_masks(["giant"] * 90 + ["a", "b", "c"] * 3, 2)
    assert sorted(most.sum(axis=1).tolist()) == [9, 9, 90, 90]


def test_a_plan_of_more_halves_stays_and_of_others_is_refused(tmp_path):
    path, ids = tmp_path / "plan.npz", np.arange(20)
    write_masks(path, half_masks(20, 4), ids)
    before = path.read_bytes()
    write_masks(path, half_masks(20, 2), ids)
    assert path.read_bytes() == before
    with pytest.raises(EvaluationError, match="other items or halves"):
        write_masks(path, half_masks(20, 2, seed=1), ids)
    with pytest.raises(EvaluationError, match="other items or halves"):
        write_masks(path, half_masks(20, 2), ids + 1)
    path.write_bytes(before[:40])
    with pytest.raises(EvaluationError, match="not readable"):
        write_masks(path, half_masks(20, 2), ids)


def test_losses_are_kept_as_they_come_and_go_on(subject, tmp_path, monkeypatch):
    from attributary_train.evaluation import halves

    monkeypatch.setattr(halves, "train_unet", lambda run, data, **_: subject.model.unet)
    monkeypatch.setattr(halves, "finished", lambda unet, recipe, facts: subject.model)
    masks = half_masks(len(subject.data), 2)
    plan = plan_halves(subject.recipe, masks, 0, 0)
    truth = Truth(tmp_path / "truth", tmp_path / "work", subject.queries, subject.data.ids, masks)
    stops = iter([False, False, True])
    assert train_halves(truth, plan, subject.data, tmp_path / "work", until=lambda: next(stops)) == 2
    assert truth.done("half-001") and not truth.done("half-002")
    assert train_halves(truth, plan, subject.data, tmp_path / "work") == 2
    assert train_halves(truth, plan, subject.data, tmp_path / "work") == 0
    with np.load(tmp_path / "truth" / "losses-test.npz") as parts:
        assert parts["losses"].shape == (4, 3) and parts["runs"].tolist() == [half.name for half in plan]
    with np.load(tmp_path / "truth" / "plan.npz") as parts:
        assert np.array_equal(np.unpackbits(parts["kept"], axis=1, count=masks.shape[1]).astype(bool), masks)
    # The folder alone is what travels: on another machine nothing is trained again.
    moved = Truth(tmp_path / "truth", tmp_path / "elsewhere", subject.queries, subject.data.ids, masks)
    assert train_halves(moved, plan, subject.data, tmp_path / "elsewhere") == 0
    # A command that asks for less takes nothing away.
    fewer = Truth(
        tmp_path / "truth",
        tmp_path / "less",
        subject.queries,
        subject.data.ids,
        half_masks(len(subject.data), 2),
    )
    assert fewer.pack(["half-000"]) == 1
    with np.load(tmp_path / "truth" / "losses-test.npz") as parts:
        assert len(parts["runs"]) == 4
    with pytest.raises(EvaluationError, match="queries"):
        Truth(tmp_path / "truth", tmp_path / "new", subject.queries.take([0]), subject.data.ids, masks)
    with pytest.raises(EvaluationError, match="other items or halves"):
        Truth(tmp_path / "truth", tmp_path / "new", subject.queries, subject.data.ids, ~masks)
    with pytest.raises(EvaluationError, match=r"queries\.parquet"):
        open_world(tmp_path / "truth", "test")


def test_fast_losses_are_near_the_exact_ones(subject):
    losses = EveryLoss(subject.queries)
    fast = losses.of(subject.model)
    exact = mean_losses(QueryLoss(subject.queries.split("test"), Grid(8, 2)).cells(subject.model))
    rows = [row for row, split in enumerate(subject.queries.splits) if split == "test"]
    assert np.allclose(fast[rows], exact, rtol=5e-3)
    assert np.array_equal(fast, losses.of(subject.model))
