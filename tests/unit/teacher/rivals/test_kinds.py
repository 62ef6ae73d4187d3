"""Unit gradients, DAS, the middle block, and items with several captions under every teacher."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from attributary_train.errors import TeacherError
from attributary_train.subject.captions import Captions
from attributary_train.teacher.abu import Abu, AbuSettings
from attributary_train.teacher.das import Das
from attributary_train.teacher.draws import LossGrid
from attributary_train.teacher.ekfac import FactorSettings
from attributary_train.teacher.gradients import GradientPass, GradientSettings
from attributary_train.teacher.middle_block import MiddleBlock
from attributary_train.teacher.moved import losses
from attributary_train.teacher.projection import Flat, Whole

PLAIN = GradientSettings(parameters="all", timesteps=2, query_draws=8)
ABU = AbuSettings(
    gradient_draws=16,
    timesteps=2,
    target_change=None,
    alpha=1e-3,
    factors=FactorSettings(draws=2, backend="torch"),
)


@pytest.fixture(scope="module")
def levelled(data):
    stream = torch.Generator().manual_seed(5)
    states = torch.randn((6, 5, 6), generator=stream)
    of_item = torch.arange(len(data) * 2).view(-1, 2) % 6
    shares = torch.tensor([0.5, 0.5])
    several = Captions(("concept", "style"), tuple("abcdef"), states, of_item, shares)
    return replace(data, text=states[of_item[:, 0]], captions=several)


def of_items(model, data, settings):
    passing = GradientPass(model, settings, Whole())
    return torch.cat([part for _, part in passing.of_items(data, np.arange(len(data)))])


def test_unit_gradients_are_means_of_unit_vectors(model, data, queries):
    once = replace(PLAIN, timesteps=1)
    single, unit = of_items(model, data, once), of_items(model, data, replace(once, unit=True))
    assert torch.allclose(unit, torch.nn.functional.normalize(single, dim=1), atol=1e-5)
    both = of_items(model, data, replace(PLAIN, unit=True))
    assert (both.norm(dim=1) < 1.0 + 1e-5).all() and (both.norm(dim=1) > 0.1).all()
    # The same in small portions of memory, and whatever the company.
    small = replace(PLAIN, unit=True, memory=1 << 16)
    assert torch.allclose(both, of_items(model, data, small), atol=1e-5)
    asked = GradientPass(model, replace(PLAIN, unit=True), Whole()).of_queries(queries)
    assert (asked.norm(dim=1) < 1.0 + 1e-5).all()
    assert torch.allclose(asked, GradientPass(model, small, Whole()).of_queries(queries), atol=1e-5)


def test_das_weighs_items_by_what_the_model_errs_and_has_no_sign(model, data, queries):
    method = Das(replace(PLAIN, output="mean"), Flat(64))
    method.fit(data, model)
    scores = method.score(queries, data.ids)
    assert scores.shape == (len(queries), len(data)) and (scores >= 0).all()
    loud = replace(data, latents=data.latents.clone())
    louder = Das(replace(PLAIN, output="mean"), Flat(64))
    louder.fit(loud, model)
    louder._errors[3] *= 2.0
    assert np.allclose(louder.score(queries, data.ids)[:, 3], 2.0 * scores[:, 3], rtol=1e-5)


def test_the_middle_block_finds_an_item_that_is_asked_for(model, data, queries):
    same = replace(queries, latents=data.latents[: len(queries)])
    method = MiddleBlock((10, 50))
    method.fit(data, model)
    scores = method.score(same, data.ids)
    assert (scores.argmax(axis=1) == np.arange(len(queries))).all()
    assert np.allclose(scores[:, : len(queries)].diagonal(), 1.0, atol=1e-4)
    # Words are not seen.
    other = replace(same, text=same.text.flip(0))
    assert np.array_equal(method.score(other, data.ids), scores)
    with pytest.raises(TeacherError, match="timesteps"):
        MiddleBlock(())
    with pytest.raises(TeacherError, match="timesteps"):
        MiddleBlock((100,)).fit(data, model)


def test_every_teacher_meets_an_items_captions(model, data, levelled):
    plain = replace(levelled, captions=None)
    for ask in (
        lambda items: of_items(model, items, PLAIN),
        lambda items: of_items(model, items, replace(PLAIN, unit=True)),
        lambda items: losses(model, items, LossGrid.of(model, items, 2), np.arange(len(items))),
    ):
        first, second = ask(levelled), ask(plain)
        assert not torch.allclose(first, second)
        # With one and the same caption on both levels it is the one-caption data again.
        captions = levelled.captions
        twice = replace(captions, of_item=captions.of_item[:, :1].expand(-1, 2).contiguous())
        assert torch.allclose(ask(replace(levelled, captions=twice)), second, atol=1e-6)


def test_even_and_odd_halves_add_up_and_turn_with_the_step(model, data, queries):
    asked = queries.take([0, 1])

    def scores(**changes):
        method = Abu(replace(ABU, **changes))
        method.fit(data, model)
        return method.score(asked, data.ids)

    whole, even, odd = scores(), scores(part="even"), scores(part="odd")
    assert np.allclose(even + odd, whole, atol=1e-6)
    assert np.allclose(even - odd, scores(alpha=-1e-3), atol=1e-6)
    skewed = scores(skew=True)
    assert np.abs(skewed).max() < 1.0 and not np.allclose(skewed, whole)


def test_a_step_by_the_fisher_is_closed_form_and_needs_one(model, data, queries):
    settings = replace(ABU, alpha=None, target_change=0.01, step="fisher")
    method = Abu(settings)
    method.fit(data, model)
    change, size = method.change(queries.take([0]))
    direction = {name: value / size for name, value in change.items()}
    elements = float(np.prod(data.latents.shape[1:]))
    before = float(method._probe_before.mean())
    wanted = (0.01 * before / (method.factors.quadratic(direction) * elements / 4.0)) ** 0.5
    assert size == pytest.approx(wanted, rel=0.02)
    with pytest.raises(TeacherError, match="step"):
        replace(ABU, step="fisher")
    with pytest.raises(TeacherError, match="part"):
        replace(ABU, part="both")


def test_losses_may_be_taken_on_a_part_of_the_schedule(model, data, queries, tmp_path):
    grid = LossGrid.of(model, data, 3, span=0.6)
    assert grid.timesteps.tolist() == [10, 30, 50]
    whole = LossGrid.of(model, data, 5)
    assert torch.equal(grid.noise, whole.noise[:, :3])
    asked, kept = queries.take([0]), tmp_path / "baseline.npy"
    scores = []
    for settings in (replace(ABU, mirrored=False), replace(ABU, mirrored=False, timesteps=3, span=0.6)):
        method = Abu(replace(settings, parameters="cross_kv"))
        method.fit(data, model, baseline=kept)
        scores.append(method.score(asked, data.ids))
    assert not np.allclose(*scores)
    with pytest.raises(TeacherError, match="span"):
        replace(ABU, span=0.0)


def test_shared_noise_is_the_same_for_every_item(model, data):
    grid = LossGrid.of(model, data, 2, mirrored=True, shared=True)
    assert torch.equal(grid.noise[0], grid.noise[-1]) and grid.noise.shape[:2] == (len(data), 4)
    own = LossGrid.of(model, data, 2, mirrored=True)
    assert not torch.equal(own.noise[0], own.noise[-1])
