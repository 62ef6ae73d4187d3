"""Interrupted, damaged and foreign files around a training; presets and devices that do not fit."""

import dataclasses
import json
import os

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from attributary_train.errors import SubjectError
from attributary_train.subject import autoencoder as training
from attributary_train.subject.autoencoder import MADE_FROM, new_autoencoder, train_autoencoder
from attributary_train.subject.data import SubjectData
from attributary_train.subject.model import new_unet
from attributary_train.subject.pictures import squares
from attributary_train.subject.queries import Queries, load_queries, save_queries
from attributary_train.subject.recipe import preset
from attributary_train.subject.run import checked_device, ready_autoencoder, train_subject
from attributary_train.subject.state import load_state
from attributary_train.subject.text import DIM, token_states
from attributary_train.subject.train import STATE, Run, train_unet
from tests.support.synthetic import synthetic_corpus

ITEMS = 4
RECIPE = dataclasses.replace(
    preset("tiny"),
    steps=2,
    batch=2,
    autoencoder=dataclasses.replace(preset("tiny").autoencoder, steps=2, batch=2),
)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    torch.set_num_threads(1)
    return synthetic_corpus(tmp_path_factory.mktemp("damage") / "corpus", ITEMS)


def ready(corpus, work, recipe=RECIPE):
    return ready_autoencoder(recipe, corpus, work, corpus.root.parent / "cache", lambda line: None)


def full(path):
    """What is written to `path` meets a full disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to("/dev/full")


def some_data(dim=DIM):
    return SubjectData(
        np.arange(ITEMS),
        ("a",) * ITEMS,
        torch.zeros(ITEMS, 4, 4, 4),
        torch.zeros(ITEMS, 16, dim),
        torch.zeros(16, dim),
        "",
    )


def test_an_autoencoder_is_finished_only_with_its_weights(corpus, tmp_path, monkeypatch):
    folder = tmp_path / "autoencoder"
    save = training.AutoencoderKL.save_pretrained

    def killed(model, path):
        save(model, path)
        raise KeyboardInterrupt

    monkeypatch.setattr(training.AutoencoderKL, "save_pretrained", killed)
    with pytest.raises(KeyboardInterrupt):
        ready(corpus, tmp_path)
    assert not (folder / "config.json").exists()
    monkeypatch.undo()
    # As diffusers leaves a folder when it is stopped before the weights.
    (folder / "config.json").write_text("{}")
    ready(corpus, tmp_path)
    assert not (folder / "part").exists() and (folder / "curve.json").exists()


def test_an_autoencoder_of_another_recipe_or_corpus_is_not_taken_up(corpus, tmp_path):
    made = ready(corpus, tmp_path)
    with pytest.raises(SubjectError, match="an autoencoder of another corpus"):
        ready(corpus.select(ids=[corpus[0].id]), tmp_path)
    wider = dataclasses.replace(RECIPE.autoencoder, widths=(8, 8, 16, 32))
    with pytest.raises(SubjectError, match="another autoencoder"):
        ready(corpus, tmp_path, dataclasses.replace(RECIPE, autoencoder=wider))
    # Folders of before have no such note.
    (tmp_path / "autoencoder" / MADE_FROM).unlink()
    again = ready(corpus, tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(made.parameters(), again.parameters(), strict=True))
    with pytest.raises(SubjectError, match="another block_out_channels"):
        ready(corpus, tmp_path, dataclasses.replace(RECIPE, autoencoder=wider))
    (tmp_path / "autoencoder" / "diffusion_pytorch_model.safetensors").write_bytes(b"torn")
    with pytest.raises(SubjectError, match="autoencoder: not a readable AutoencoderKL"):
        ready(corpus, tmp_path)


def test_an_autoencoder_that_diverges_stops_by_name(corpus, tmp_path, monkeypatch):
    pictures = squares(corpus, RECIPE.image_size, corpus.root.parent / "cache")
    monkeypatch.setattr(
        training, "to_pixels", lambda batch: torch.full((len(batch), 3, 32, 32), float("nan"))
    )
    with pytest.raises(SubjectError, match="autoencoder gradient: not finite at step 0"):
        train_autoencoder(RECIPE, pictures, tmp_path, log=lambda line: None)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 torn", b"no pickle"])
def test_torn_states_are_named(corpus, tmp_path, content):
    path = tmp_path / STATE
    path.write_bytes(content)
    with pytest.raises(SubjectError, match=r"training-state\.pt: not a readable checkpoint"):
        train_unet(Run(RECIPE, np.ones(ITEMS, bool), 0, 0), some_data(), state_dir=tmp_path)
    pictures = squares(corpus, RECIPE.image_size, corpus.root.parent / "cache")
    with pytest.raises(SubjectError, match=r"training-state\.pt: not a readable checkpoint"):
        train_autoencoder(RECIPE, pictures, tmp_path)
    torch.save([1], path)
    with pytest.raises(SubjectError, match="holds a list"):
        load_state(path)


def test_a_full_disk_is_named(corpus, tmp_path):
    cache = corpus.root.parent / "cache"
    out = tmp_path / "out"
    full(out / "work" / "training-state.part")
    ids = [item.id for item in corpus]
    with pytest.raises(SubjectError, match="out: cannot be written"):
        train_subject(RECIPE, corpus, ids, [], out, cache=cache, command="", log=lambda line: None)
    states = Queries(
        ("test-0000",), ("test",), ("seen",), ("a",), (0,), torch.zeros(1, 4, 4, 4), torch.zeros(1, 16, DIM),
        "w", 1, 1.0,
    )  # fmt: skip
    full(tmp_path / f".queries.parquet.{os.getpid()}.part")
    with pytest.raises(SubjectError, match=r"queries\.parquet: cannot be written"):
        save_queries(states, tmp_path / "queries.parquet")
    path = tmp_path / "whole.parquet"
    save_queries(states, path)
    assert load_queries(path).names == states.names
    table = pq.read_table(path)
    pq.write_table(table.drop_columns(["latent", "seed"]), path)
    with pytest.raises(SubjectError, match=r"whole\.parquet: not a file of queries: lacks seed, latent"):
        load_queries(path)
    pq.write_table(table.replace_schema_metadata({"queries": json.dumps({"weights": "w"})}), path)
    with pytest.raises(SubjectError, match="lacks shape, tokens, steps, guidance"):
        load_queries(path)


def test_the_coco_preset_fits_together():
    recipe = preset("coco")
    with torch.device("meta"):
        unet, autoencoder = new_unet(recipe), new_autoencoder(recipe)
        side, channels = recipe.latent_size, recipe.latent_channels
        answer = unet(
            torch.empty(2, channels, side, side),
            torch.zeros(2),
            torch.empty(2, recipe.tokens, DIM),
            return_dict=False,
        )[0]
        assert answer.shape == (2, channels, side, side)
        latent = autoencoder.encode(torch.empty(1, 3, recipe.image_size, recipe.image_size)).latent_dist.mean
        assert latent.shape == (1, channels, side, side)
    assert token_states(["a tulip"], recipe.tokens).shape == (1, recipe.tokens, recipe.text_dim)


def test_text_and_devices_that_do_not_fit_are_named():
    run = Run(RECIPE, np.ones(ITEMS, bool), 0, 0)
    with pytest.raises(SubjectError, match=r"recipe\.text_dim: 384; the text encoder's states have 8"):
        train_unet(run, some_data(dim=8))
    assert checked_device("cpu") == "cpu"
    with pytest.raises(SubjectError, match="device: 'quantum'"):
        checked_device("quantum")
    if not torch.cuda.is_available():
        with pytest.raises(SubjectError, match="torch sees no GPU"):
            checked_device("cuda:0")
