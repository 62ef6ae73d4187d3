"""Tuning: what moves, what stays, and the new word."""

import dataclasses

import pytest
import torch

from attributary_train.customization.families import NEW_WORD
from attributary_train.customization.tuning import Rows, TuneSettings, _spread, applied, tune
from attributary_train.customization.words import States, Words
from attributary_train.errors import CustomizationError
from attributary_train.subject.checkpoint import cross_attention
from attributary_train.subject.model import SubjectModel, new_scheduler, new_unet
from attributary_train.subject.recipe import Recipe

RECIPE = Recipe(
    name="toy",
    image_size=32,
    latent_size=4,
    latent_channels=4,
    widths=(8, 16),
    attention=(True, True),
    heads=2,
    text_dim=6,
    tokens=5,
    timesteps=100,
)
SETTINGS = TuneSettings(steps=30, rows=4, prior_rows=2, learning_rate=1e-2, word_learning_rate=1e-1)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return SubjectModel(new_unet(RECIPE).eval().requires_grad_(False), new_scheduler(RECIPE), "toy", {})


@pytest.fixture(scope="module")
def rows():
    stream = torch.Generator().manual_seed(1)
    exemplar = Rows(
        torch.randn((1, 4, 4, 4), generator=stream),
        States(torch.randn((1, 5, 6), generator=stream), torch.tensor([2])),
    )
    nowhere = torch.full((3,), -1)
    prior = Rows(
        torch.randn((3, 4, 4, 4), generator=stream),
        States(torch.randn((3, 5, 6), generator=stream), nowhere),
    )
    return exemplar, prior, torch.zeros((5, 6)), torch.zeros(6)


def weights(model):
    return {name: value.clone() for name, value in model.unet.state_dict().items()}


def test_only_keys_values_and_the_word_move(model, rows):
    before = weights(model)
    tuned = tune(model, *rows, SETTINGS, 7)
    assert all(torch.equal(before[name], value) for name, value in model.unet.state_dict().items())
    assert not any(value.requires_grad for value in model.unet.parameters())
    assert set(tuned.weights) == {f"{name}.weight" for name in cross_attention(model.unet)}
    assert all(not torch.equal(before[name], value) for name, value in tuned.weights.items())
    assert not torch.equal(tuned.word, rows[3])
    stream = torch.Generator().manual_seed(5)
    noise, times = torch.randn((40, 4, 4, 4), generator=stream), torch.arange(40) * 2 + 10
    latents, text = rows[0].latents.expand(40, -1, -1, -1), rows[0].text.take([0] * 40)
    untuned = float(model.losses(latents, noise, times, text.with_word(rows[3])).mean())
    with applied(model, tuned):
        assert float(model.losses(latents, noise, times, text.with_word(tuned.word)).mean()) < untuned
    with applied(model, tuned):
        inside = weights(model)
    changed = {name for name, value in inside.items() if not torch.equal(value, before[name])}
    assert changed == set(tuned.weights)
    assert all(torch.equal(before[name], value) for name, value in model.unet.state_dict().items())


def test_the_same_seed_gives_the_same_bits(model, rows):
    first, second, other = (tune(model, *rows, SETTINGS, seed) for seed in (7, 7, 8))
    assert first.digest() == second.digest() != other.digest()


def test_rows_of_the_training_set_hold_the_model_back(model, rows):
    stream = torch.Generator().manual_seed(3)
    noise = torch.randn(rows[1].latents.shape, generator=stream)
    times = torch.tensor([20, 50, 80])

    def forgotten(weight):
        settings = dataclasses.replace(SETTINGS, prior_weight=weight)
        with applied(model, tune(model, *rows, settings, 7)):
            return float(model.losses(rows[1].latents, noise, times, rows[1].text.states).mean())

    assert forgotten(2.0) < forgotten(0.0)


def test_a_loss_that_is_not_finite_is_said_and_leaves_the_model_whole(model, rows):
    before = weights(model)
    exemplar = Rows(rows[0].latents * float("nan"), rows[0].text)
    with pytest.raises(CustomizationError, match="loss: not finite at step 0"):
        tune(model, exemplar, *rows[1:], SETTINGS, 7)
    assert all(torch.equal(before[name], value) for name, value in model.unet.state_dict().items())


def test_settings_name_what_is_wrong():
    for name, value in (("steps", 0), ("rows", 0), ("prior_rows", -1), ("caption_dropout", 1.0)):
        with pytest.raises(CustomizationError, match=rf"tuning\.{name}"):
            TuneSettings(**{name: value})


def test_timesteps_are_spread_over_the_schedule():
    times = _spread(10, 1000, torch.Generator().manual_seed(0))
    assert sorted((times // 100).tolist()) == list(range(10))
    assert times.tolist() != sorted(times.tolist())
    assert len(_spread(0, 1000, torch.Generator())) == 0


def test_the_word_takes_its_place(tmp_path):
    words = Words(tmp_path, 8)
    states = words.states(["red disc", f"a {NEW_WORD} disc", f"disc, {NEW_WORD} style"])
    assert states.states.shape == (3, 8, 384)
    assert states.place.tolist() == [-1, 2, 3]
    row = torch.full((384,), 5.0)
    changed = states.with_word(row)
    assert torch.equal(changed[0], states.states[0])
    assert torch.equal(changed[1, 2], row) and torch.equal(changed[1, 3:], states.states[1, 3:])
    # What is around the word does not depend on which word will stand there.
    assert not torch.allclose(states.states[1, 3], words.states(["a blue disc"]).states[0, 3])
    with pytest.raises(CustomizationError, match="lies behind the 8 tokens"):
        words.states([f"one two three four five six seven {NEW_WORD}"])


def test_a_checkpoints_own_text_tower_is_used(tmp_path):
    """As in a Stable Diffusion directory: CLIP, whose tokenizer has no mask token."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    letters = "abcdefghijklmnopqrstuvwxyz,"
    vocabulary = {
        word: at
        for at, word in enumerate(
            [*letters, *(f"{x}</w>" for x in letters), "<|startoftext|>", "<|endoftext|>"]
        )
    }
    CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=12).save_pretrained(tmp_path / "tokenizer")
    torch.manual_seed(0)
    config = CLIPTextConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_attention_heads=2,
        num_hidden_layers=1,
        intermediate_size=32,
        max_position_embeddings=12,
        bos_token_id=vocabulary["<|startoftext|>"],
        eos_token_id=vocabulary["<|endoftext|>"],
    )
    CLIPTextModel(config).save_pretrained(tmp_path / "text_encoder")
    states = Words(tmp_path, 12).states(["a b", f"a {NEW_WORD} b"])
    assert states.states.shape == (2, 12, 16)
    assert states.place.tolist() == [-1, 2]
    (tmp_path / "text_encoder" / "config.json").write_text("{")
    with pytest.raises(CustomizationError, match="text_encoder: not readable"):
        Words(tmp_path, 12)
