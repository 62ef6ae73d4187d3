"""The gradient inside an encoder: it is what autograd gives, for any number of rows, and a prompt's words reach it."""

import numpy as np
import pytest
import torch

from attributary_train.errors import StudentError
from attributary_train.student.export import Samples, export_encoder
from attributary_train.student.generator_head import GeneratorHead
from attributary_train.student.generator_tower import GeneratorStudent, GeneratorTower
from attributary_train.student.gradient_tower import _LOUDER, TIMESTEP, GradientTower, gradient_layers
from attributary_train.student.sight import Seen
from attributary_train.subject.noise import noise_for, noise_key
from attributary_train.teacher.projection import TwoSided
from tests.unit.student.test_generator import SMALL, TinyWords, autoencoder, pictures, seen  # noqa: F401
from tests.unit.teacher.rivals.conftest import RECIPE, new_model

RANK = 3


@pytest.fixture(scope="module")
def gradient():
    return GradientTower(new_model(0), RANK, RECIPE.tokens)


@pytest.fixture(scope="module")
def tower(autoencoder):  # noqa: F811
    empty = torch.randn(RECIPE.tokens, RECIPE.text_dim, generator=torch.Generator().manual_seed(1))
    return GeneratorTower(new_model(0), autoencoder, empty, (10, 30), gradient=RANK).eval()


def asked(count, seed=0):
    stream = torch.Generator().manual_seed(seed)
    side = new_model(0).unet.config.sample_size
    channels = new_model(0).unet.config.in_channels
    latents = torch.randn(count, channels, side, side, generator=stream)
    return latents, torch.randn(count, RECIPE.tokens, RECIPE.text_dim, generator=stream)


def by_autograd(latents, states):
    """The same through the hooks that the teachers use, a layer at a time and with the whole gradient of each."""
    model = new_model(0)
    model.unet.requires_grad_(True)
    step = int(TIMESTEP * model.timesteps)
    noise = torch.from_numpy(noise_for(noise_key(0, "every item"), step, tuple(latents.shape[1:])))
    layers, rows = gradient_layers(model.unet), []
    for one, told in zip(latents, states, strict=True):
        both = torch.stack([noise, -noise])
        answer = model.predict(one.expand_as(both), both, torch.full((2,), step), told.expand(2, -1, -1))
        loud = answer.square().mean(dim=(1, 2, 3)).sum() * _LOUDER
        parts = []
        for at, layer in enumerate(layers):
            wanted = [layer.weight, layer.bias]
            weight, bias = torch.autograd.grad(loud, wanted, retain_graph=True)
            whole = torch.cat([weight.flatten(1), bias[:, None]], dim=1)
            inside, outside = TwoSided(RANK).sides(at, *whole.shape)
            parts.append((outside.T @ whole @ inside).flatten())
        rows.append(torch.cat(parts))
    return torch.stack(rows)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_it_is_what_autograd_gives_for_any_number_of_rows(gradient, count):
    latents, states = asked(count)
    expected = by_autograd(latents, states)
    assert gradient.width == expected.shape[1]
    assert expected.abs().max() > 0
    torch.testing.assert_close(gradient(latents, states), expected, rtol=1e-3, atol=1e-4)


def test_the_words_of_a_prompt_are_learnt_through_it(gradient):
    latents, states = asked(2)
    states = states.requires_grad_(True)
    weight = torch.linspace(-1, 1, gradient.width)
    (told,) = torch.autograd.grad((gradient(latents, states) @ weight).sum(), states)
    step = 1e-2 * torch.randn(states.shape, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        moved = ((gradient(latents, states + step) - gradient(latents, states - step)) @ weight).sum() / 2
    torch.testing.assert_close((told * step).sum(), moved, rtol=2e-2, atol=1e-5)


def student_of(tower):
    head = GeneratorHead(SMALL, seen(tower, 12, 1), tower.empty, tower.gradient_width)
    return GeneratorStudent("tiny", tower, TinyWords(), head, SMALL.dim).eval()


def test_where_a_prompt_is_only_the_gradient_under_it_is_looked_at(tower):
    head = student_of(tower).head
    shown = seen(tower, 4, 3)
    half, width = shown.image.shape[1] // 2, tower.gradient_width
    other = shown.image.clone()
    other[:, half - width : half] += 1.0
    with torch.no_grad():
        same = head(other, shown.states, shown.mask)
        assert torch.equal(same, head(shown.image, shown.states, shown.mask))
        without = torch.zeros_like(shown.mask)
        assert not torch.allclose(
            head(other, shown.states, without), head(shown.image, shown.states, without), atol=1e-3
        )


def test_what_is_served_is_what_was_learnt_from(tower):
    """Training looks at both gradients; serving takes one, under the prompt or under none."""
    student = student_of(tower)
    ids = torch.randint(1, 20, (3, RECIPE.tokens), generator=torch.Generator().manual_seed(5))
    pixels = torch.from_numpy(pictures(3, 8))
    for mask in (torch.ones_like(ids), torch.zeros_like(ids)):
        with torch.no_grad():
            served = student(pixels, ids, mask)
            latents, some = tower.latents(pixels), mask.amax(1)[:, None, None] > 0
            states = torch.where(some, student.text_tower.states(ids, mask), tower.empty)
            image = torch.cat([tower.without(latents), tower.features(latents, states)], dim=1)
            learnt = student.head(image, states, mask.float())
        torch.testing.assert_close(served, learnt, rtol=1e-4, atol=1e-5)


@pytest.mark.slow  # the exporter takes half a minute
def test_the_exported_encoder_takes_the_gradient_too(tower, tmp_path):
    student = student_of(tower)
    stream = np.random.default_rng(0)
    ids = stream.integers(1, 20, (16, RECIPE.tokens))
    samples = Samples(pictures(16), ids, np.ones_like(ids))
    (tmp_path / "words.json").write_text("{}")
    facts = export_encoder(tmp_path, student, tmp_path / "words.json", samples, int8=False)
    assert facts["parity_max_abs_difference"] < 1e-4


def test_a_denoiser_without_residual_blocks_is_refused_by_name():
    shown = new_model(0)
    shown.unet = torch.nn.Sequential(torch.nn.Conv2d(3, 3, 1))
    with pytest.raises(StudentError, match="residual"):
        GradientTower(shown, RANK, RECIPE.tokens)


def test_features_stand_where_the_head_reads_them(tower):
    shown = seen(tower, 2, 4)
    assert isinstance(shown, Seen)
    latents = tower.latents(torch.from_numpy(pictures(2, 4)))
    half = shown.image.shape[1] // 2
    with torch.no_grad():
        gradient = tower.gradient(latents, shown.states)
    torch.testing.assert_close(shown.image[:, 2 * half - tower.gradient_width :], gradient)
