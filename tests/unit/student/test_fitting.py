"""Heads learn the teacher's order, start from its kernel, keep the sign right, and refuse a loss that is not finite."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from attributary_train.errors import StudentError
from attributary_train.evaluation.ranking import spearman_rows
from attributary_train.student import fitting
from attributary_train.student.config import CONFIGS, StudentConfig, config_named
from attributary_train.student.fitting import Material, fit
from attributary_train.student.kernel_head import POWER, KernelHead, TokenKernel
from attributary_train.student.sight import Seen
from attributary_train.student.tower_heads import COMPONENTS, principal

SMALL = StudentConfig(
    "small", dim=41, hidden=32, epochs=20, batch=20, dropout=0.0, learning_rate=1e-2, item_pace=1.0
)
PAPER = replace(
    SMALL,
    name="small paper",
    learning_rate=1e-3,
    head="paper",
    loss="rank_bce",
    free_items=False,
    prompt_dropout=0.0,
    batch=400,
)


def spearman(fitted, queries, labels):
    told = np.take_along_axis(fitted.scores(queries), labels.rows, axis=1)
    return spearman_rows(labels.scores, told).mean()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"link": "exponential"},
        {"target": "rank", "sharpness": 4.0},
        {"loss": "listmle"},
        {"head": "tokens"},
        {"head": "tokens", "separate": True, "free_items": False},
        {"members": 2},
    ],
)
def test_a_head_learns_the_teachers_order(changes, queries, items, labels):
    config = replace(SMALL, **changes)
    fitted = fit(config, Material(queries, items, labels))
    assert spearman(fitted, queries, labels) > 0.5
    assert torch.allclose(fitted.items.norm(dim=1), torch.ones(len(items)), atol=1e-5)
    assert fitted.items.shape == (len(items), 41 * config.members)


def test_the_same_seed_gives_the_same_student(queries, items, labels):
    material, config = Material(queries, items, labels), replace(SMALL, epochs=2)
    first, second = fit(config, material), fit(config, material)
    assert torch.equal(first.items, second.items)
    assert not torch.equal(first.items, fit(replace(config, seed=1), material).items)


def test_the_papers_student_ends_with_a_negative_scale_and_finds_itself_most_influential(
    queries, items, labels
):
    fitted = fit(replace(PAPER, epochs=30), Material(queries, items, labels))
    assert fitted.scales[0] < 0
    assert spearman(fitted, queries, labels) > 0.3
    itself = fitted.scores(items)
    assert (itself.diagonal() >= itself.max(axis=1) - 1e-5).all()


def test_a_scale_of_the_wrong_sign_is_refused(queries, items, labels):
    run = fitting._Fit(PAPER, Material(queries, items, labels))
    with torch.no_grad():
        run.scale.fill_(0.5)
    with pytest.raises(StudentError, match=r"scale: ended at 0\.5, not below 0"):
        run._finished(0.0)


def test_a_loss_that_is_not_finite_is_refused(queries, items, labels):
    broken = Seen(queries.image.clone(), queries.states, queries.mask)
    broken.image[3] = float("nan")
    with pytest.raises(StudentError, match="loss: not finite in epoch 1 of small"):
        fit(SMALL, Material(broken, items, labels))


def test_the_generators_head_is_not_fitted_on_these_towers(queries, items, labels):
    with pytest.raises(StudentError, match="head: 'generator' has a tower of its own"):
        fit(replace(SMALL, head="generator"), Material(queries, items, labels))


def test_features_of_other_queries_are_refused(queries, items, labels):
    with pytest.raises(StudentError, match="59 queries and 40 items"):
        Material(queries.take(range(59)), items, labels)


def test_every_pair_meets_the_papers_loss_once_an_epoch(queries, items, labels):
    run = fitting._Fit(PAPER, Material(queries, items, labels))
    met = torch.cat(list(run._pair_batches()))
    assert sorted(met.tolist()) == list(range(labels.rows.size))


def test_the_kernel_is_a_sum_over_pairs_of_tokens(queries, items):
    kernel = TokenKernel(items, 0.5)
    found = kernel.of(queries)
    for q, i in ((0, 0), (7, 31)):
        total = 0.0
        for t in range(int(queries.mask[q].sum())):
            for s in range(int(items.mask[i].sum())):
                a, b = queries.states[q, t] @ kernel.matrix, items.states[i, s] @ kernel.matrix
                total += max(float(a @ b), 0.0) ** POWER
        assert float(found[q, i]) == pytest.approx(total**0.5, rel=1e-4)


def test_an_untrained_kernel_head_ranks_as_its_kernel_does(queries, items, labels):
    fitted = fit(replace(SMALL, epochs=0), Material(queries, items, labels))
    kernel = TokenKernel(items, SMALL.whitening).of(queries).numpy()
    assert spearman_rows(kernel, fitted.scores(queries)).mean() > 0.97


def test_without_a_prompt_only_the_picture_counts(queries, items):
    torch.manual_seed(0)
    head = KernelHead(SMALL, items).eval()
    bare = queries.without_prompt()
    other = Seen(bare.image, torch.randn_like(bare.states), bare.mask)
    with torch.inference_mode():
        assert torch.allclose(
            head(bare.image, bare.states, bare.mask), head(other.image, other.states, other.mask)
        )


def test_configurations_are_read_back_and_wrong_ones_refused():
    for config in CONFIGS.values():
        assert StudentConfig.from_json(config.to_json()) == config
    with pytest.raises(StudentError, match="'nothing' is unknown; there are paper"):
        config_named("nothing")
    with pytest.raises(StudentError, match="colour: is not a setting"):
        StudentConfig.from_json({"name": "x", "colour": 1})
    with pytest.raises(StudentError, match="loss: 'l2'; there are rank_bce"):
        replace(SMALL, loss="l2")
    with pytest.raises(StudentError, match=r"prompt_dropout: 1\.0"):
        replace(SMALL, prompt_dropout=1.0)


def test_few_items_give_no_direction_that_holds_rounding_alone():
    rows = torch.randn(6, 40, generator=torch.Generator().manual_seed(0))
    found = principal(rows, COMPONENTS)
    assert found.matrix.shape == (40, 5)
    # A sixth direction would multiply what float32 rounds by tens of thousands.
    assert (
        float(((rows + 1e-6 - found.mean) @ found.matrix - (rows - found.mean) @ found.matrix).abs().max())
        < 1e-4
    )


def test_pictures_that_hardly_differ_are_not_blown_up():
    rng = torch.Generator().manual_seed(0)
    rows = torch.randn(1, 40, generator=rng) + 1e-5 * torch.randn(100, 40, generator=rng)
    found = principal(rows, COMPONENTS)
    assert float(((rows - found.mean) @ found.matrix).norm(dim=1).max()) < 0.1
    far = torch.randn(100, 40, generator=rng)
    told = principal(far, COMPONENTS)
    assert float(((far - told.mean) @ told.matrix).norm(dim=1).mean()) == pytest.approx(1.0, rel=0.1)
