"""Query losses: the same noise for every model, whatever is asked beside."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from attributary_train.errors import EvaluationError, SubjectError
from attributary_train.evaluation.query_loss import Grid, QueryLoss, mean_losses, monte_carlo_error

GRID = Grid(6, 2)


def test_a_query_has_the_same_losses_alone_reordered_or_among_others(subject):
    whole = QueryLoss(subject.queries, GRID).cells(subject.model)
    assert whole.shape == (5, 6, 2)
    assert whole.dtype == np.float32
    for rows in ([3], [4, 0, 2]):
        some = QueryLoss(subject.queries.take(rows), GRID).cells(subject.model)
        np.testing.assert_allclose(some, whole[rows], rtol=1e-5)


def test_it_is_the_denoising_loss(subject):
    """One cell by hand, from the model's own loss."""
    loss = QueryLoss(subject.queries, GRID)
    cells = loss.cells(subject.model)
    noise = loss._noise[2, 1, 1]
    at = int(subject.model.timesteps / 6 * 1.5)
    with torch.inference_mode():
        signal = subject.model.scheduler.alphas_cumprod[at]
        noised = signal.sqrt() * subject.queries.latents[2] + (1 - signal).sqrt() * noise
        answer = subject.model.unet(noised[None], torch.tensor([at]), subject.queries.text[2:3]).sample[0]
    assert cells[2, 1, 1] == pytest.approx((answer - noise).square().mean().item(), rel=1e-4)


def test_draws_differ_and_queries_meet_noise_of_their_own(subject):
    loss = QueryLoss(subject.queries, GRID)
    loss.cells(subject.model)
    flat = loss._noise.flatten(3).flatten(0, 2)
    assert len(torch.unique(flat, dim=0)) == 5 * 6 * 2


def test_losses_are_kept_by_model_queries_and_grid(subject, tmp_path, monkeypatch):
    first = QueryLoss(subject.queries, GRID, tmp_path)
    cells = first.cells(subject.model)
    monkeypatch.setattr(QueryLoss, "_compute", lambda self, model: pytest.fail("computed again"))
    assert (QueryLoss(subject.queries, GRID, tmp_path).cells(subject.model) == cells).all()
    others = [
        (subject.queries, Grid(6, 1), subject.model),
        (subject.queries.take([1]), GRID, subject.model),
        (subject.queries, GRID, replace(subject.model, weights="other")),
    ]
    monkeypatch.setattr(QueryLoss, "_compute", lambda self, model: np.zeros((1, 1, 1), np.float32))
    for queries, grid, model in others:
        assert QueryLoss(queries, grid, tmp_path).cells(model).shape == (1, 1, 1)


def test_a_cut_off_file_is_computed_again(subject, tmp_path):
    loss = QueryLoss(subject.queries, GRID, tmp_path)
    cells = loss.cells(subject.model)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:50])
    assert (loss.cells(subject.model) == cells).all()


def test_the_monte_carlo_error_is_the_deviation_of_a_mean_difference():
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(400, 5, 4)), np.zeros((400, 5, 4))
    # 20 cells of unit variance a query.
    assert monte_carlo_error(first, second) == pytest.approx(1 / np.sqrt(20), rel=0.05)
    assert mean_losses(first).std() == pytest.approx(1 / np.sqrt(20), rel=0.1)
    assert np.isnan(monte_carlo_error(first[..., :1], second[..., :1]))


def test_bad_settings_and_values_are_named(subject):
    with pytest.raises(EvaluationError, match=r"grid\.draws: 0"):
        Grid(5, 0)
    with pytest.raises(EvaluationError, match="queries: there are none"):
        QueryLoss(subject.queries.take([]))
    broken = replace(subject.queries, latents=subject.queries.latents * float("nan"))
    with pytest.raises(SubjectError, match="query loss: 60 of 60"):
        QueryLoss(broken, GRID).cells(subject.model)
