"""What a student is trained towards: ranks, masses, and losses that are least where they should be."""

import pytest
import torch

from attributary_train.student.losses import (
    listmle,
    listwise,
    mass_targets,
    rank_bce,
    rank_mass_targets,
    rank_targets,
    soft_log,
)

SCORES = torch.tensor([[0.1, 5.0, -2.0, 1.0]])
ONES = torch.ones(4)


def test_ranks_start_at_nothing_for_the_most_influential():
    assert rank_targets(SCORES).tolist() == [[0.5, 0.0, 0.75, 0.25]]


def test_a_mass_keeps_magnitude_and_leaves_out_what_is_below_the_mean():
    mass = mass_targets(SCORES, ONES, 1.0)[0]
    assert mass.sum() == pytest.approx(1.0)
    assert mass[1] == pytest.approx(1.0) and mass[2] == 0.0  # only 5.0 lies above the mean of 1.025
    flat = mass_targets(torch.zeros(1, 4), ONES, 1.0)
    assert torch.allclose(flat, torch.full((1, 4), 0.25))


def test_a_candidate_that_stands_for_two_counts_as_two():
    once = mass_targets(torch.tensor([[3.0, 1.0, 1.0]]), torch.ones(3), 0.5)
    twice = mass_targets(torch.tensor([[3.0, 1.0]]), torch.tensor([1.0, 2.0]), 0.5)
    assert once[0, 0] == pytest.approx(float(twice[0, 0]))
    ranks = rank_mass_targets(torch.tensor([[1.0, 9.0, 2.0]]), torch.tensor([1.0, 3.0, 1.0]), 2.0)[0]
    # The best stands for three, so the next one is three ranks further down.
    assert ranks[2] / ranks[1] == pytest.approx(float(torch.exp(torch.tensor(-1.5)) / 3.0), rel=1e-5)


@pytest.mark.parametrize("link", ["exponential", "power"])
def test_a_listwise_loss_is_least_where_the_distribution_is_the_target(link):
    target = torch.tensor([[0.5, 0.3, 0.2]])
    right = target.log() if link == "exponential" else target
    scale = torch.tensor(1.0)
    least = listwise(right, target, torch.ones(3), scale, link)
    entropy = -(target * target.log()).sum()
    assert least == pytest.approx(float(entropy), abs=1e-5)
    assert listwise(right.flip(1), target, torch.ones(3), scale, link) > least + 0.05


def test_a_cosine_below_nothing_keeps_its_gradient():
    cosine = torch.tensor([-0.5, 0.0, 0.5], requires_grad=True)
    found = soft_log(cosine)
    found.sum().backward()
    assert found.detach()[2] == pytest.approx(float(torch.log(torch.tensor(0.5))), abs=1e-3)
    assert cosine.grad[2] == pytest.approx(2.0, abs=0.01)
    assert 10.0 < cosine.grad[1] < cosine.grad[0] < 21.0


def test_plackett_luce_prefers_the_teachers_order():
    right = listmle(SCORES.argsort().argsort().float(), SCORES, torch.tensor(1.0))
    assert right < listmle(-SCORES.argsort().argsort().float(), SCORES, torch.tensor(1.0))


def test_rank_bce_wants_a_negative_scale():
    cosine, target = torch.tensor([0.9, -0.9]), torch.tensor([0.0, 1.0])
    below = rank_bce(cosine, target, torch.tensor(-2.0), torch.tensor(0.0))
    assert below < rank_bce(cosine, target, torch.tensor(2.0), torch.tensor(0.0))
