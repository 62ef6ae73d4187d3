"""The gradient inside an encoder: it is what autograd gives, for any number of rows, and a prompt's words reach it."""

import pytest
import torch

from attributary_train.errors import StudentError
from attributary_train.student.gradient_tower import _LOUDER, TIMESTEP, GradientTower, gradient_layers
from attributary_train.subject.noise import noise_for, noise_key
from attributary_train.teacher.projection import TwoSided
from tests.unit.teacher.rivals.conftest import RECIPE, new_model

RANK = 3


@pytest.fixture(scope="module")
def gradient():
    return GradientTower(new_model(0), RANK, RECIPE.tokens)


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


def test_a_denoiser_without_residual_blocks_is_refused_by_name():
    shown = new_model(0)
    shown.unet = torch.nn.Sequential(torch.nn.Conv2d(3, 3, 1))
    with pytest.raises(StudentError, match="residual"):
        GradientTower(shown, RANK, RECIPE.tokens)
