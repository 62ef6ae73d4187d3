"""Per-sample gradients by hooks equal those of autograd, one sample at a time."""

import dataclasses

import numpy as np
import pytest
import torch

from attributary_train.errors import TeacherError
from attributary_train.subject.data import SubjectData
from attributary_train.subject.model import SubjectModel, loss_timesteps
from attributary_train.subject.noise import noise_for, noise_grid, noise_key
from attributary_train.teacher.draws import query_draws
from attributary_train.teacher.ekfac import as_matrix
from attributary_train.teacher.gradients import GradientPass, GradientSettings, output_of
from attributary_train.teacher.projection import Flat, TwoSided, Whole

SMALL = GradientSettings(timesteps=3, mirrored=False, query_draws=6, batch=12)


def by_autograd(model, names, settings, latents, noise, steps, text):
    """Mean gradient over draws as one row: the slow way, through the weights."""
    modules = dict(model.unet.named_modules())
    weights = [weight for name in names for weight in modules[name].parameters()]
    for weight in weights:
        weight.requires_grad_(True)
    try:
        value = output_of(model, settings.output, latents, noise, steps, text).mean()
        found = dict(zip(map(id, weights), torch.autograd.grad(value, weights), strict=True))
    finally:
        model.unet.requires_grad_(False)
    parts = []
    for name in names:
        module = modules[name]
        bias = None if module.bias is None else found[id(module.bias)]
        parts.append(as_matrix(module, found[id(module.weight)], bias).flatten())
    return torch.cat(parts)


def whole(passing, data, rows):
    return torch.cat([part for _, part in passing.of_items(data, np.asarray(rows))])


@pytest.mark.parametrize("output", ["loss", "square"])
@pytest.mark.parametrize("parameters", ["cross_kv", "attention", "all"])
def test_gradients_of_items_are_autograds(model, data, parameters, output):
    settings = dataclasses.replace(SMALL, parameters=parameters, output=output)
    passing = GradientPass(model, settings, Whole())
    ours = whole(passing, data, [3, 7, 11])
    steps = loss_timesteps(model, settings.timesteps)
    for got, row in zip(ours, [3, 7, 11], strict=True):
        key = noise_key(int(data.ids[row]), data.prompts[row])
        noise = torch.stack([torch.from_numpy(noise_for(key, step, (4, 4, 4))) for step in steps])
        size = len(steps)
        wanted = by_autograd(
            model,
            passing.names,
            settings,
            data.latents[row].expand(size, -1, -1, -1),
            noise,
            torch.tensor(steps),
            data.text[row].expand(size, -1, -1),
        )
        assert got.shape == wanted.shape
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5 * float(wanted.abs().max()))


def test_a_mirrored_grid_is_the_mean_over_both_noises(model, data, monkeypatch):
    mirrored = dataclasses.replace(SMALL, mirrored=True)
    both = GradientPass(model, mirrored, Whole())
    ours = whole(both, data, [3])
    assert both.passes == 6
    one = whole(GradientPass(model, SMALL, Whole()), data, [3])
    monkeypatch.setattr("attributary_train.teacher.gradients.noise_grid", lambda *a: -noise_grid(*a))
    other = whole(GradientPass(model, SMALL, Whole()), data, [3])
    torch.testing.assert_close(ours, (one + other) / 2, rtol=1e-4, atol=1e-5 * float(one.abs().max()))
    assert not torch.allclose(one, other, rtol=0.1)


def test_gradients_of_queries_are_autograds(model, queries):
    settings = dataclasses.replace(SMALL, parameters="all", query_draws=6, batch=4)
    passing = GradientPass(model, settings, Whole())
    ours = passing.of_queries(queries)
    assert passing.passes == 6 * len(queries)
    draws = list(query_draws(queries.names[1], queries.prompts[1], (4, 4, 4), model.timesteps, 6))
    noise, steps = (torch.cat([draw[part] for draw in draws]) for part in (0, 1))
    wanted = by_autograd(
        model,
        passing.names,
        settings,
        queries.latents[1].expand(6, -1, -1, -1),
        noise,
        steps,
        queries.text[1].expand(6, -1, -1),
    )
    torch.testing.assert_close(ours[1], wanted, rtol=1e-4, atol=1e-5 * float(wanted.abs().max()))


def test_split_gives_each_layer_its_own(model, data):
    passing = GradientPass(model, SMALL, Whole())
    features = whole(passing, data, [0, 1])
    parts = passing.split(features)
    modules = dict(model.unet.named_modules())
    assert list(parts) == passing.names and all(name.endswith(("to_k", "to_v")) for name in parts)
    assert all(parts[name].shape == (2, *modules[name].weight.shape) for name in parts)
    torch.testing.assert_close(torch.cat([part.flatten(1) for part in parts.values()], 1), features)


@pytest.mark.parametrize(
    "projection",
    [Whole(), Flat(64), Flat(64, "normal"), TwoSided(4)],
    ids=["whole", "flat", "normal", "two-sided"],
)
def test_features_do_not_depend_on_batches_blocks_or_company(model, data, projection):
    def features(rows, **changes):
        settings = dataclasses.replace(SMALL, parameters="all", **changes)
        return whole(GradientPass(model, settings, projection), data, rows)

    everything = features(range(8))
    order = np.random.default_rng(0).permutation(8)
    for other, rows in [
        (features(range(8), batch=2), range(8)),
        (features(range(8), memory=1), range(8)),
        (features(order, batch=7), order),
        (features([4, 6]), [4, 6]),
    ]:
        # Rounding of float32 only; scores are held to 1e-5 in test_scores.py.
        assert float((other - everything[np.asarray(rows)]).abs().max()) < 5e-5 * float(
            everything.abs().max()
        )


@pytest.mark.parametrize("kind", ["sparse", "normal", "rademacher"])
def test_flat_projections_keep_inner_products(kind):
    # 20,000 coordinates span several blocks of the matrix; deviation of a cosine is about 1 / sqrt(dim) = 0.022.
    stream = torch.Generator().manual_seed(0)
    rows = torch.randn((6, 20_000), generator=stream)
    rows[1] = 0.7 * rows[0] + 0.3 * rows[1]
    projected = Flat(2048, kind).finish(rows)
    assert projected.shape == (6, 2048)
    cosines = torch.nn.functional.normalize(rows) @ torch.nn.functional.normalize(rows).T
    scale = rows.norm(dim=1)[:, None] * rows.norm(dim=1)
    assert float((projected @ projected.T / scale - cosines).abs().max()) < 0.1
    assert not torch.equal(projected, Flat(2048, kind, seed=1).finish(rows))


def test_two_sided_projection_is_that_of_the_gradient():
    stream = torch.Generator().manual_seed(0)
    a, g = torch.randn((3, 7, 20), generator=stream), torch.randn((3, 7, 12), generator=stream)
    projection = TwoSided(4)
    p_in, p_out = projection._side(2, 0, 20), projection._side(2, 1, 12)
    whole_gradient = torch.einsum("nso,nsi->noi", g, a)
    wanted = torch.einsum("oa,noi,ib->nab", p_out, whole_gradient, p_in).flatten(1)
    torch.testing.assert_close(projection.reduce(2, a, g), wanted, rtol=1e-4, atol=1e-4)
    assert projection.width(12, 3) == 4 * 3
    assert torch.equal(projection._side(0, 0, 3), torch.eye(3))


def test_a_gradient_that_is_not_finite_is_an_error_that_names_the_layer(model, data, queries):
    broken = data.latents.clone()
    broken[5] = float("nan")
    spoiled = SubjectData(data.ids, data.prompts, broken, data.text, data.empty, data.digest)
    with pytest.raises(TeacherError, match="not finite at timesteps"):
        whole(GradientPass(model, SMALL, Whole()), spoiled, [4, 5])
    passing = GradientPass(model, SMALL, Whole())
    raw = torch.zeros(1, passing.total)
    raw[0, passing.widths[0]] = float("inf")
    with pytest.raises(TeacherError, match=f"gradient of {passing.names[1]}: is not finite"):
        passing._finished(raw)


def test_a_layer_of_another_kind_is_refused(model):
    class Odd(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = torch.nn.Conv2d(4, 4, 3, groups=2)

    odd = SubjectModel(Odd(), model.scheduler, "odd", {})
    with pytest.raises(TeacherError, match="conv: has 2 groups"):
        GradientPass(odd, dataclasses.replace(SMALL, parameters="all"), Whole())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GradientSettings(output="likelihood"), "output: 'likelihood'"),
        (lambda: GradientSettings(timesteps=0), "timesteps: 0; must be at least 1"),
        (lambda: Flat(0), "projection.dim: 0"),
        (lambda: Flat(8, "fourier"), "projection.kind: 'fourier'"),
        (lambda: TwoSided(0), "projection.rank: 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(make, message):
    with pytest.raises(TeacherError, match=message):
        make()
