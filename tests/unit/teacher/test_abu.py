"""AbU and AbU+: against closed forms, and the same whatever the batch, the order and the company."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from attributary_train.errors import SubjectError, TeacherError
from attributary_train.subject.data import SubjectData
from attributary_train.subject.model import SubjectModel, new_scheduler
from attributary_train.subject.queries import Queries
from attributary_train.subject.recipe import preset
from attributary_train.teacher import draws
from attributary_train.teacher import moved as moved_module
from attributary_train.teacher.abu import Abu, AbuSettings
from attributary_train.teacher.draws import LossGrid, query_draws
from attributary_train.teacher.ekfac import FactorSettings, load_factors, save_factors
from attributary_train.teacher.factors import fit_factors
from attributary_train.teacher.fisher_diagonal import fit_diagonal
from attributary_train.teacher.moved import losses, moved
from attributary_train.teacher.parameters import module_names
from tests.unit.teacher.rivals.conftest import another_model, data, model, queries  # noqa: F401

# An untrained U-Net has no loss to keep: a fixed step, whatever it changes.
SETTINGS = AbuSettings(
    gradient_draws=16,
    timesteps=3,
    target_change=None,
    alpha=1e-4,
    factors=FactorSettings(draws=2, backend="torch"),
)

# ---- a linear model: the prediction is V e, whatever the picture -----------------------------------------------------

SIDE, CHANNELS, WIDTH, COUNT = 2, 2, 3, 40
OUTPUTS = CHANNELS * SIDE * SIDE


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.to_v = nn.Linear(WIDTH, OUTPUTS, bias=False)


class LinearDenoiser(nn.Module):
    """noise(x, t, e) = V e: a linear regression, whose Fisher and influence are known in closed form."""

    def __init__(self):
        super().__init__()
        self.attn2 = Attention()

    def forward(self, sample, timesteps, text, return_dict=False):
        return (self.attn2.to_v(text[:, 0]).view(-1, CHANNELS, SIDE, SIDE),)


@pytest.fixture(scope="module")
def linear():
    torch.manual_seed(0)
    denoiser = LinearDenoiser().requires_grad_(False)
    mixing = torch.tensor([[1.0, 0.0, 0.0], [0.6, 0.5, 0.0], [0.2, -0.3, 0.3]])
    text = (torch.randn(COUNT, WIDTH) @ mixing)[:, None, :]
    subject = SubjectModel(denoiser, new_scheduler(replace(preset("tiny"), timesteps=500)), "linear", {})
    items = SubjectData(
        np.arange(1, COUNT + 1, dtype=np.int64),
        tuple(f"item {at}" for at in range(COUNT)),
        torch.randn(COUNT, CHANNELS, SIDE, SIDE),
        text,
        torch.zeros(1, WIDTH),
        "linear",
    )
    return subject, items


def query_of(items, row, weights):
    return Queries(
        ("validation-0000",),
        ("validation",),
        ("seen",),
        ("a query",),
        (0,),
        items.latents[row : row + 1],
        items.text[row : row + 1],
        weights,
        5,
        3.0,
    )


def dense_fisher(items):
    """Of the mean squared error with targets drawn from the model, over the rows of V: 4 / D^2 I (x) E[e e^T]."""
    e = items.text[:, 0].double()
    return 4.0 / OUTPUTS**2 * (e.T @ e) / len(items)


def test_ekfac_equals_the_dense_fisher_of_a_layer(linear):
    subject, items = linear
    factors = fit_factors(subject, items, FactorSettings(draws=400, backend="torch"), None)
    gradient = torch.randn(OUTPUTS, WIDTH)
    found = factors.precondition({"attn2.to_v": gradient}, damping=0.0)["attn2.to_v"]
    expected = gradient.double() @ torch.linalg.inv(dense_fisher(items))
    assert torch.allclose(found.double(), expected, rtol=0.06, atol=0.03 * float(expected.abs().max()))
    quadratic = float(torch.trace(gradient.double() @ dense_fisher(items) @ gradient.double().T))
    assert factors.quadratic({"attn2.to_v": gradient}) == pytest.approx(quadratic, rel=0.05)


def test_a_small_step_with_the_dense_fisher_is_the_closed_form_influence(linear):
    """score = a g_z^T F^-1 g_q + a^2 (...): with a small step, the influence function (Koh and Liang, 2017)."""
    subject, items = linear
    settings = AbuSettings(
        target_change=None,
        alpha=1e-5,
        damping=0.0,
        gradient_draws=64,
        timesteps=4,
        mirrored=False,
        factors=FactorSettings(backend="torch"),
    )
    factors = fit_factors(subject, items, FactorSettings(draws=400, backend="torch"), None)
    teacher = Abu(settings, factors=factors)
    teacher.fit(items, subject)
    query = query_of(items, 3, "linear")
    scores = teacher.score(query, items.ids)[0]

    weight = subject.unet.attn2.to_v.weight.double()

    def gradient(noise, e):
        error = weight @ e - noise.flatten().double()
        return 2.0 / OUTPUTS * torch.outer(error, e)

    e_query = query.text[0, 0].double()
    drawn = [
        noise
        for batch, _ in query_draws("validation-0000", "a query", (CHANNELS, SIDE, SIDE), 500, 64)
        for noise in batch
    ]
    of_query = torch.stack([gradient(noise, e_query) for noise in drawn]).mean(0)
    step = of_query @ torch.linalg.inv(dense_fisher(items))
    grid = LossGrid.of(subject, items, 4)
    closed = np.array(
        [
            float(
                sum((gradient(noise, items.text[row, 0].double()) * step).sum() for noise in grid.noise[row])
                / len(grid.timesteps)
            )
            for row in range(len(items))
        ]
    )
    assert np.corrcoef(scores, closed)[0, 1] > 0.995
    assert np.allclose(scores, 1e-5 * closed, rtol=0.1, atol=0.03 * np.abs(1e-5 * closed).max())


def test_a_step_away_from_an_item_raises_its_own_loss_most(linear):
    subject, items = linear
    teacher = Abu(AbuSettings(gradient_draws=64, timesteps=4, target_change=0.05), factors=None)
    teacher.fit(items, subject)
    near = items.text[:, 0] @ items.text[7, 0] / items.text[:, 0].norm(dim=1) / items.text[7, 0].norm()
    scores = teacher.score(query_of(items, 7, "linear"), items.ids)[0]
    assert scores[near.abs() > 0.9].mean() > 3 * abs(scores[near.abs() < 0.2].mean())


# ---- invariances, on a U-Net
# ------------------------------------------------------------------------------------------


# Steps that change the losses by some per cent: with smaller ones their rounding shows.
@pytest.mark.parametrize(("fisher", "alpha"), [("ekfac", 3e-3), ("diagonal", 3e-3), ("none", 100.0)])
def test_scores_do_not_depend_on_batch_order_or_subset(model, data, queries, fisher, alpha, monkeypatch):  # noqa: F811
    teacher = Abu(replace(SETTINGS, fisher=fisher, alpha=alpha))
    teacher.fit(data, model)
    whole = teacher.score(queries, data.ids)
    scale = np.abs(whole).max()
    assert scale > 0
    order = np.random.default_rng(0).permutation(len(data))[:7]
    part = teacher.score(queries.take([2, 0]), data.ids[order])
    assert np.allclose(part, whole[[2, 0]][:, order], atol=1e-5 * scale, rtol=1e-5)
    monkeypatch.setattr(moved_module, "BATCH", 5)
    again = Abu(replace(SETTINGS, fisher=fisher, alpha=alpha), factors=teacher.factors)
    again.fit(data, model)
    assert np.allclose(again.score(queries, data.ids), whole, atol=2e-5 * scale, rtol=1e-4)


def test_the_step_reaches_the_change_that_was_asked_for(linear):
    subject, items = linear
    for target in (0.002, 0.05):
        teacher = Abu(AbuSettings(gradient_draws=64, timesteps=4, target_change=target))
        teacher.fit(items, subject)
        whole = teacher.score(query_of(items, 3, "linear"), items.ids)
        assert 0.5 * target < teacher.steps[0].change < 2.0 * target
        order = np.random.default_rng(0).permutation(len(items))
        again = teacher.score(query_of(items, 3, "linear"), items.ids[order])
        assert np.allclose(again, whole[:, order], atol=1e-5 * np.abs(whole).max())


def test_a_change_that_cannot_be_reached_is_said(model, data, queries):  # noqa: F811
    teacher = Abu(replace(SETTINGS, alpha=None, target_change=9.0, fisher="none"))
    teacher.fit(data, model)
    with pytest.raises(TeacherError, match="target_change: 9 is not reached"):
        teacher.score(queries, data.ids)


def test_the_model_is_left_as_it_was(model, data, queries):  # noqa: F811
    before = {name: value.clone() for name, value in model.unet.state_dict().items()}
    teacher = Abu(SETTINGS)
    teacher.fit(data, model)
    teacher.score(queries, data.ids)
    names = module_names(model.unet, "cross_kv")
    with pytest.raises(RuntimeError, match="stop"), moved(model.unet, teacher.change(queries.take([0]))[0]):
        assert not torch.equal(
            dict(model.unet.named_modules())[names[0]].weight, before[f"{names[0]}.weight"]
        )
        raise RuntimeError("stop")
    for name, value in model.unet.state_dict().items():
        assert torch.equal(value, before[name])
    assert not any(value.requires_grad for value in model.unet.parameters())


def test_another_draw_is_another_noise_and_the_same_question(model, data, queries):  # noqa: F811
    first, second = Abu(SETTINGS), Abu(replace(SETTINGS, draw=1))
    for teacher in (first, second):
        teacher.fit(data, model)
    a, b = first.score(queries, data.ids), second.score(queries, data.ids)
    assert not np.allclose(a, b)


def test_all_attention_can_be_moved_where_kronfluence_is(model, data, queries, tmp_path):  # noqa: F811
    pytest.importorskip("kronfluence", reason="factors of layers with a bias need kronfluence")
    settings = replace(
        SETTINGS,
        parameters="attention",
        factors=FactorSettings(parameters="attention", draws=1, backend="kronfluence"),
    )
    teacher = Abu(settings, scratch=tmp_path)
    teacher.fit(data, model)
    assert len(teacher.modules) > 2 * len(module_names(model.unet, "cross_kv"))
    assert np.isfinite(teacher.score(queries, data.ids)).all()


def test_a_mirrored_grid_cancels_what_is_odd_in_the_noise(model, data):  # noqa: F811
    grid = LossGrid.of(model, data, 3, mirrored=True)
    assert torch.equal(grid.timesteps[:3], grid.timesteps[3:]) and len(grid.timesteps) == 6
    assert torch.equal(grid.noise[:, :3], -grid.noise[:, 3:])
    assert torch.equal(grid.noise[:, :3], LossGrid.of(model, data, 3).noise)


def test_a_large_grid_is_drawn_where_it_is_needed_the_same_to_the_last_bit(model, data, monkeypatch):  # noqa: F811
    kept = LossGrid.of(model, data, 3, mirrored=True)
    monkeypatch.setattr(draws, "MOST_KEPT_BYTES", kept.noise.nbytes - 1)
    grid = LossGrid.of(model, data, 3, mirrored=True).to("cpu")
    assert isinstance(grid.noise, draws.DrawnNoise) and grid.noise.nbytes == kept.noise.nbytes
    assert torch.equal(grid.timesteps, kept.timesteps)
    rows, columns = torch.tensor([0, 3, 3, 1]), torch.tensor([5, 0, 4, 2])
    for at in ((rows, columns), (slice(1, 4), 4), (2, 3), (rows, 1)):
        assert torch.equal(grid.noise[at], kept.noise[at]), at
    assert torch.equal(grid.noise[:, [4, 1]][rows, 0], kept.noise[:, [4, 1]][rows, 0])
    some = np.array([0, 2, 5])
    assert torch.equal(losses(model, data, grid, some), losses(model, data, kept, some))
    monkeypatch.setattr(draws, "MOST_KEPT_BYTES", kept.noise.nbytes)
    assert isinstance(LossGrid.of(model, data, 3, mirrored=True).noise, torch.Tensor)


def test_draws_of_a_query_are_stratified_and_mirrored():
    batches = list(query_draws("q", "p", (2, 3, 3), 100, 50, batch=16))
    noise, steps = torch.cat([b[0] for b in batches]), torch.cat([b[1] for b in batches])
    assert len(steps) == 50 and float(noise.mean().abs()) < 1e-6
    counts = np.bincount(steps.numpy() // 20, minlength=5)
    assert counts.min() >= 8 and counts.max() <= 12
    again = list(query_draws("q", "p", (2, 3, 3), 100, 50, batch=16))
    assert all(torch.equal(a[0], b[0]) for a, b in zip(batches, again, strict=True))
    assert not torch.equal(batches[0][0], next(query_draws("r", "p", (2, 3, 3), 100, 50, batch=16))[0])


# ---- what is refused
# --------------------------------------------------------------------------------------------------


def test_what_does_not_belong_together_is_refused(model, another_model, data, queries, tmp_path):  # noqa: F811
    factors = fit_factors(model, data, SETTINGS.factors, tmp_path)
    save_factors(factors, tmp_path / "factors.safetensors")
    assert load_factors(tmp_path / "factors.safetensors", model).facts == factors.facts
    with pytest.raises(TeacherError, match="is the Fisher of model"):
        load_factors(tmp_path / "factors.safetensors", another_model)
    with pytest.raises(TeacherError, match="are the Fisher of model"):
        Abu(SETTINGS, factors=factors).fit(data, another_model)
    (tmp_path / "factors.safetensors").write_bytes(b"not factors")
    with pytest.raises(TeacherError, match="not a file of factors"):
        load_factors(tmp_path / "factors.safetensors", model)
    teacher = Abu(SETTINGS, factors=factors)
    teacher.fit(data, model)
    with pytest.raises(SubjectError, match="candidate id: 5 is not in the training set"):
        teacher.score(queries, np.array([5]))
    with pytest.raises(TeacherError, match="queries: made by model"):
        teacher.score(replace(queries, weights="other"), data.ids)
    broken = replace(queries, latents=torch.full_like(queries.latents, float("nan")))
    with pytest.raises(SubjectError, match="gradient of query validation-0000"):
        teacher.score(broken, data.ids)


def test_a_teacher_that_is_not_ready_or_asked_wrongly_says_so(model, data, queries):  # noqa: F811
    teacher = Abu(replace(SETTINGS, fisher="none"))
    with pytest.raises(TeacherError, match="abu-sgd: score was called before fit"):
        teacher.score(queries, data.ids)
    teacher.fit(data, model)
    with pytest.raises(TeacherError, match="candidates: 2 rows for 4 queries"):
        teacher.score(queries, data.ids[:8].reshape(2, 4))
    with pytest.raises(TeacherError, match="candidates: 3 dimensions"):
        teacher.score(queries, data.ids[:8].reshape(2, 2, 2))


def test_the_papers_step_is_divided_by_the_items(model, data, queries):  # noqa: F811
    teacher = Abu(replace(SETTINGS, fisher="none", alpha=None, papers_alpha=0.18))
    teacher.fit(data, model)
    assert teacher.change(queries.take([0]))[1] == pytest.approx(0.01)
    assert len(data) == 18


def test_settings_name_the_field_and_the_limit():
    for wrong, words in (
        ({"alpha": 0.1}, "exactly one"),
        ({"papers_alpha": 0.1}, "exactly one"),
        ({"target_change": None}, "exactly one"),
        ({"target_change": -1.0}, "target_change: -1.0"),
        ({"damping": -0.1}, "damping"),
        ({"timesteps": 0}, "timesteps: 0"),
        ({"gradient_draws": 0}, "gradient_draws: 0"),
    ):
        with pytest.raises(TeacherError, match=words):
            AbuSettings(**wrong)


def test_diagonal_fisher_is_the_mean_squared_gradient(model, data):  # noqa: F811
    settings = FactorSettings(draws=2, sampled=False)
    found = fit_diagonal(model, data, settings)
    name = module_names(model.unet, "cross_kv")[0]
    weight = dict(model.unet.named_modules())[name].weight
    grid = LossGrid.of(model, data, 2, draw=1_000)
    total = torch.zeros_like(weight)
    weight.requires_grad_(True)
    try:
        for row in range(len(data)):
            for column, step in enumerate(grid.timesteps):
                part = slice(row, row + 1)
                loss = model.losses(
                    data.latents[part], grid.noise[part, column], step[None], data.text[part]
                ).sum()
                total += torch.autograd.grad(loss, weight)[0].square()
    finally:
        weight.requires_grad_(False)
    assert torch.allclose(found.squares[name], total / (len(data) * 2), rtol=1e-4, atol=1e-9)
