"""EK-FAC influence against the dense matrix and against kronfluence's own scores."""

import copy
import dataclasses
import logging
import warnings

import numpy as np
import pytest
import torch

from attributary_train.errors import TeacherError
from attributary_train.subject.noise import noise_for, noise_key
from attributary_train.teacher.draws import query_draws
from attributary_train.teacher.ekfac import Factors, FactorSettings, Layer, load_factors
from attributary_train.teacher.ekfac_influence import EkfacInfluence
from attributary_train.teacher.gradients import GradientPass, GradientSettings
from attributary_train.teacher.projection import Whole

KV = GradientSettings(timesteps=1, mirrored=False, query_draws=2, batch=8)
TORCH = FactorSettings(draws=2, sampled=False, backend="torch")


@pytest.fixture(scope="module")
def fitted(model, data, tmp_path_factory):
    method = EkfacInfluence(tmp_path_factory.mktemp("ekfac"), KV, 0.1, factor_settings=TORCH)
    method.fit(data, model)
    return method


def test_scores_are_those_of_the_dense_inverse_fisher(fitted, model, data, queries):
    scores = fitted.score(queries, data.ids)
    passing = GradientPass(model, KV, Whole())
    asked = passing.split(passing.of_queries(queries))
    items = passing.split(torch.cat([part for _, part in passing.of_items(data, np.arange(len(data)))]))
    path = next(fitted.scratch.glob("factors-*.safetensors"))
    wanted = 0.0
    for name, layer in load_factors(path, model).layers.items():
        # vec of a [O, I] matrix, row by row: the eigenvectors are Kronecker products.
        basis = torch.kron(layer.gradient, layer.activation).double()
        values = layer.eigenvalues.double().flatten()
        dense = basis @ torch.diag(values + 0.1 * values.mean()) @ basis.T
        solved = torch.linalg.solve(dense, asked[name].flatten(1).double().T)
        wanted = wanted + (items[name].flatten(1).double() @ solved).T
    np.testing.assert_allclose(scores, wanted.numpy(), rtol=1e-3, atol=1e-5 * float(wanted.abs().max()))
    assert fitted.cost.forward_passes == 2 + -(-18 // 4)


def test_scores_agree_with_kronfluence(model, data, queries, tmp_path):
    pytest.importorskip("kronfluence", reason="kronfluence is not installed (make setup-train)")
    from kronfluence.analyzer import Analyzer, prepare_model
    from kronfluence.arguments import FactorArguments, ScoreArguments
    from kronfluence.task import Task
    from torch.utils.data import TensorDataset

    logging.getLogger("kronfluence").setLevel(logging.ERROR)
    names, noised = GradientPass(model, KV, Whole()).names, model.noised

    class Denoising(Task):
        def compute_train_loss(self, batch, model, sample=False):
            latents, noise, steps, text = batch
            answer = model(noised(latents, noise, steps), steps, text, return_dict=False)[0]
            return (answer - noise).square().mean(dim=(1, 2, 3)).sum()

        def compute_measurement(self, batch, model):
            return self.compute_train_loss(batch, model)

        def get_influence_tracked_modules(self):
            return names

    keys = [noise_key(int(i), p) for i, p in zip(data.ids, data.prompts, strict=True)]
    noise = torch.stack([torch.from_numpy(noise_for(key, 50, (4, 4, 4))) for key in keys])
    train = TensorDataset(data.latents, noise, torch.full((len(data),), 50), data.text)
    # Two noised copies of a query are two rows there; influence is linear in the query's gradient.
    drawn = [
        next(query_draws(name, prompt, (4, 4, 4), model.timesteps, 2))
        for name, prompt in zip(queries.names, queries.prompts, strict=True)
    ]
    asked = TensorDataset(
        queries.latents.repeat_interleave(2, 0),
        torch.cat([noise for noise, _ in drawn]),
        torch.cat([steps for _, steps in drawn]),
        queries.text.repeat_interleave(2, 0),
    )
    task = Denoising()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        analyzer = Analyzer(
            "toy",
            prepare_model(copy.deepcopy(model.unet), task),
            task,
            cpu=True,
            output_dir=str(tmp_path),
            disable_tqdm=True,
        )
        analyzer.fit_all_factors(
            "f",
            train,
            per_device_batch_size=6,
            factor_args=FactorArguments(strategy="ekfac", use_empirical_fisher=True),
        )
        analyzer.compute_pairwise_scores(
            "s",
            "f",
            query_dataset=asked,
            train_dataset=train,
            per_device_query_batch_size=4,
            per_device_train_batch_size=6,
            score_args=ScoreArguments(damping_factor=None),
        )
        theirs = analyzer.load_pairwise_scores("s")["all_modules"].view(len(queries), 2, -1).mean(dim=1)
        found = analyzer.load_all_factors("f")
    layers = {
        name: Layer(
            found["activation_eigenvectors"][name],
            found["gradient_eigenvectors"][name],
            found["lambda_matrix"][name] / found["num_lambda_processed"][name].item(),
        )
        for name in names
    }
    method = EkfacInfluence(tmp_path, KV, 0.1, Factors(layers, model.weights, {}))
    method.fit(data, model)
    ours = method.score(queries, data.ids)
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-3, atol=1e-4 * float(theirs.abs().max()))


def test_factors_are_fitted_once(fitted, model, data, queries, monkeypatch):
    monkeypatch.setattr(
        "attributary_train.teacher.factors.fit_factors", lambda *_: pytest.fail("fitted again")
    )
    again = EkfacInfluence(fitted.scratch, KV, 0.1, factor_settings=TORCH)
    again.fit(data, model)
    np.testing.assert_allclose(
        again.score(queries, data.ids), fitted.score(queries, data.ids), rtol=1e-5, atol=1e-9
    )


def test_what_does_not_fit_is_refused(fitted, model, another_model, data, tmp_path):
    _, factors = fitted._state
    foreign = EkfacInfluence(tmp_path, KV, factors=factors)
    with pytest.raises(TeacherError, match="Fisher of model weights-0, not of weights-1"):
        foreign.fit(data, another_model)
    wide = EkfacInfluence(tmp_path, dataclasses.replace(KV, parameters="attention"), factors=factors)
    with pytest.raises(TeacherError, match="factors: have none for"):
        wide.fit(data, model)
    with pytest.raises(TeacherError, match=r"damping: 0\.0; must be above 0"):
        EkfacInfluence(tmp_path, KV, 0.0)
    with pytest.raises(TeacherError, match="output: 'square'"):
        EkfacInfluence(tmp_path, dataclasses.replace(KV, output="square"))
