"""What holds for every rival: the same scores whatever the batch, the order, the subset; the same refusals."""

import dataclasses

import numpy as np
import pytest
import torch

from attributary_train.errors import SubjectError, TeacherError
from attributary_train.subject.data import SubjectData
from attributary_train.teacher.dtrak import DTrak
from attributary_train.teacher.ekfac import FactorSettings
from attributary_train.teacher.ekfac_influence import EkfacInfluence
from attributary_train.teacher.gradients import GradientSettings
from attributary_train.teacher.journey_trak import JourneyTrak
from attributary_train.teacher.logra import LoGra, fisher_root
from attributary_train.teacher.projection import Flat, TwoSided
from attributary_train.teacher.registry import METHODS, Context, create
from attributary_train.teacher.trak import Trak

ALL = GradientSettings(parameters="all", timesteps=3, query_draws=8, batch=64)
TORCH = FactorSettings(draws=2, sampled=False, backend="torch")
MAKE = {
    "trak": lambda s, _: Trak(s, Flat(64)),
    "dtrak": lambda s, _: DTrak(dataclasses.replace(s, output="square"), Flat(64)),
    "journey_trak": lambda s, _: JourneyTrak(s, Flat(64), timestep=40),
    "logra": lambda s, _: LoGra(s, TwoSided(2)),
    "ekfac_influence": lambda s, folder: EkfacInfluence(
        folder, dataclasses.replace(s, parameters="cross_kv"), factor_settings=TORCH
    ),
}


@pytest.fixture(scope="module", params=sorted(MAKE))
def case(request, model, data, queries, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)

    def make(settings=ALL):
        method = MAKE[request.param](settings, folder)
        method.fit(data, model)
        return method

    method = make()
    return make, method, method.score(queries, data.ids)


def same(scores, wanted):
    np.testing.assert_allclose(scores, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


def test_scores_do_not_depend_on_batches(case, data, queries):
    make, _, wanted = case
    same(make(dataclasses.replace(ALL, batch=7, memory=1 << 20)).score(queries, data.ids), wanted)


def test_scores_do_not_depend_on_the_order_of_the_training_set(case, model, data, queries, request):
    make, _, wanted = case
    order = np.random.default_rng(0).permutation(len(data))
    turned = data.select(order)
    assert isinstance(turned, SubjectData)
    method = make()
    if isinstance(method, EkfacInfluence):
        method._given = method._state[1]
    method.fit(turned, model)
    same(method.score(queries, data.ids), wanted)


def test_scores_do_not_depend_on_order_subset_or_company(case, data, queries):
    _, method, wanted = case
    order = np.random.default_rng(1).permutation(len(data))
    same(method.score(queries, data.ids[order]), wanted[:, order])
    same(method.score(queries.take([3, 1]), data.ids[[5, 2]]), wanted[[3, 1]][:, [5, 2]])
    own = np.stack([np.random.default_rng(row).permutation(len(data))[:4] for row in range(len(queries))])
    same(method.score(queries, data.ids[own]), np.take_along_axis(wanted, own, axis=1))
    assert method.cost.candidates == 4
    # An item asked for twice gets its score twice.
    same(method.score(queries, data.ids[[7, 7]]), wanted[:, [7, 7]])


def test_scores_tell_queries_and_items_apart(case):
    _, method, wanted = case
    assert wanted.dtype == np.float32 and wanted.shape == (4, 18)
    assert (wanted.std(axis=1) > 0).all() and np.abs(np.corrcoef(wanted)[0, 1:]).max() < 0.999
    assert method.cost.fit_seconds > 0 and method.cost.bytes_per_item > 0 and method.cost.forward_passes >= 8


def test_what_cannot_be_scored_is_refused(case, model, data, queries, tmp_path):
    _, method, _ = case
    with pytest.raises(SubjectError, match="7 is not in the training set of 18 items"):
        method.score(queries, np.array([100, 7]))
    with pytest.raises(TeacherError, match="come from model other, not from weights-0"):
        method.score(dataclasses.replace(queries, weights="other"), data.ids)
    with pytest.raises(TeacherError, match="candidates: 2 rows for 4 queries"):
        method.score(queries, data.ids[:8].reshape(2, 4))
    with pytest.raises(TeacherError, match="candidates: 3 dimensions"):
        method.score(queries, data.ids[:8].reshape(2, 2, 2))
    assert method.score(queries, data.ids[:0]).shape == (4, 0)
    with pytest.raises(TeacherError, match="not finite"):
        broken = dataclasses.replace(queries, text=torch.full_like(queries.text, torch.nan))
        method.score(broken, data.ids)


def test_a_method_that_was_not_fitted_says_so(queries, tmp_path):
    with pytest.raises(TeacherError, match="trak: score was called before fit"):
        Trak(ALL).score(queries, np.array([100]))


def test_the_root_gives_the_inner_products_of_the_inverse_fisher():
    phi = torch.randn((400, 6), generator=torch.Generator().manual_seed(0)) * torch.tensor(
        [9, 1, 3, 1, 0.5, 2]
    )
    root = fisher_root(phi, 0.1)
    fisher = phi.double().T @ phi.double() / 400
    damped = fisher + 0.1 * torch.linalg.eigvalsh(fisher).mean() * torch.eye(6).double()
    torch.testing.assert_close(root @ root.T, damped)
    white = torch.linalg.solve_triangular(root, phi.double().T, upper=False).T
    torch.testing.assert_close(white @ white.T, phi.double() @ torch.linalg.inv(damped) @ phi.double().T)
    with pytest.raises(TeacherError, match="are all zero"):
        fisher_root(torch.zeros(4, 3), 0.1)


def test_logra_is_a_cosine_unless_it_is_told_otherwise(model, data, queries):
    scores = {}
    for normalise in (True, False):
        # Fewer dimensions than items: with more, whitening alone makes all lengths equal.
        method = LoGra(dataclasses.replace(ALL, parameters="cross_kv"), TwoSided(1), normalise=normalise)
        method.fit(data, model)
        scores[normalise] = method.score(queries, data.ids)
        norms = method._state[2].norm(dim=1)
        assert torch.allclose(norms, torch.ones(18)) is normalise
    assert np.abs(scores[True]).max() <= 1.0
    assert not np.array_equal(scores[True].argsort(axis=1), scores[False].argsort(axis=1))
    with pytest.raises(TeacherError, match="damping: 0; must be above 0"):
        LoGra(damping=0)


@pytest.mark.parametrize("name", sorted(MAKE))
def test_every_rival_can_be_made_by_name(name, tmp_path):
    context = Context(tmp_path, None, tmp_path)
    method = create(name, context, {"damping": 0.5, "timesteps": 4})
    assert method.name == name and method.damping == 0.5 and method.settings.timesteps == 4
    with pytest.raises(TeacherError, match="does not take these settings"):
        create(name, context, {"dampening": 0.5})
    assert name in METHODS
