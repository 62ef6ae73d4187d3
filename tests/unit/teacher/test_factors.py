"""The Fisher information with targets drawn from the model: the same whatever the batch, the order and the fitter."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from attributary_train.teacher.abu import Abu, AbuSettings
from attributary_train.teacher.draws import item_keys, target_noise
from attributary_train.teacher.ekfac import FactorSettings
from attributary_train.teacher.ekfac_influence import EkfacInfluence
from attributary_train.teacher.factors import VERSION, fit_factors, kept_factors
from attributary_train.teacher.fisher_diagonal import fit_diagonal
from attributary_train.teacher.gradients import GradientSettings
from tests.unit.teacher.rivals.conftest import data, model, queries  # noqa: F401

DRAWN = FactorSettings(draws=2, sampled=True, backend="torch")


def turned(items):
    return items.select(np.random.default_rng(0).permutation(len(items)))


def same(found, wanted, within=1e-5):
    np.testing.assert_allclose(found, wanted, rtol=0, atol=within * np.abs(wanted).max())


@pytest.mark.parametrize("fisher", ["ekfac", "diagonal"])
def test_unlearning_scores_are_the_same_when_factors_are_fitted_otherwise(model, data, queries, fisher):  # noqa: F811
    settings = AbuSettings(
        fisher=fisher, gradient_draws=16, timesteps=3, target_change=None, alpha=3e-3, factors=DRAWN
    )

    def scores(items, factors):
        teacher = Abu(replace(settings, factors=factors))
        teacher.fit(items, model)
        return teacher.score(queries, data.ids)

    wanted = scores(data, DRAWN)
    assert np.abs(wanted).max() > 0
    same(scores(data, replace(DRAWN, batch=5)), wanted)
    same(scores(turned(data), replace(DRAWN, batch=7)), wanted)


def test_influence_is_the_same_when_factors_are_fitted_otherwise(model, data, queries, tmp_path):  # noqa: F811
    settings = GradientSettings("cross_kv", timesteps=3, query_draws=8)

    def scores(items, factors):
        method = EkfacInfluence(tmp_path, settings, factor_settings=factors)
        method.fit(items, model)
        return method.score(queries, data.ids)

    wanted = scores(data, DRAWN)
    same(scores(data, replace(DRAWN, batch=5)), wanted)
    same(scores(turned(data), replace(DRAWN, batch=7)), wanted)
    assert len(list(tmp_path.glob("factors-*"))) == 3


def test_both_fitters_draw_the_same_targets(model, data, tmp_path):  # noqa: F811
    pytest.importorskip("kronfluence", reason="kronfluence is not installed (make setup-train)")
    ours = fit_factors(model, data, DRAWN, tmp_path)
    theirs = fit_factors(model, turned(data), replace(DRAWN, backend="kronfluence", batch=7), tmp_path)
    stream = torch.Generator().manual_seed(0)
    gradients = {
        name: torch.randn(layer.eigenvalues.shape, generator=stream) for name, layer in ours.layers.items()
    }
    found = theirs.precondition(gradients, 0.1)
    for name, wanted in ours.precondition(gradients, 0.1).items():
        same(found[name].numpy(), wanted.numpy(), 1e-4)
    assert not list(tmp_path.iterdir()), "kronfluence's own files are removed"


def test_targets_belong_to_the_item_and_are_not_the_noise_of_a_loss(model, data):  # noqa: F811
    keys, shape = item_keys(data), data.latents.shape[1:]
    whole = target_noise(keys, 50, shape, 0)
    assert torch.equal(target_noise(keys[3:5], 50, shape, 0), whole[3:5])
    for other in (target_noise(keys, 51, shape, 0), target_noise(keys, 50, shape, 1)):
        assert not torch.equal(other, whole)
    diagonal = fit_diagonal(model, data, DRAWN).squares
    other = fit_diagonal(model, data, replace(DRAWN, seed=1)).squares
    assert not any(torch.equal(diagonal[name], other[name]) for name in diagonal)


def test_factors_kept_by_an_older_version_are_fitted_again(model, data, tmp_path, monkeypatch):  # noqa: F811
    settings = replace(DRAWN, draws=1)
    monkeypatch.setattr("attributary_train.teacher.factors.VERSION", VERSION - 1)
    kept_factors(model, data, settings, tmp_path)
    monkeypatch.undo()
    assert kept_factors(model, data, settings, tmp_path).facts["version"] == VERSION
    assert len(list(tmp_path.glob("factors-*"))) == 2
