"""Similarity of raw features: both sides at one resolution, parts of unit length, the same refusals."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from attributary_train.errors import SubjectError, TeacherError
from attributary_train.generators.latents import decode
from attributary_train.subject.autoencoder import new_autoencoder
from attributary_train.subject.data import SubjectData
from attributary_train.subject.pictures import squares
from attributary_train.subject.recipe import PRESETS
from attributary_train.teacher import features
from attributary_train.teacher.registry import Context, create
from tests.support.synthetic import synthetic_corpus

COUNT = 12


class Towers:
    """Stands in for the real ones: features that a test can foretell. The image part is a thousand times longer."""

    image_tower = SimpleNamespace(image_size=40)

    def __init__(self):
        self.sizes = set()

    def images(self, keys, pixels):
        rows = [pixels(row) for row in range(len(keys))]
        self.sizes |= {row.shape for row in rows}
        return np.stack([1000.0 * np.append(row.reshape(-1, 3).mean(0), 50.0) for row in rows]).astype(
            np.float32
        )

    def texts(self, prompts):
        return np.stack([np.bincount([ord(c) % 16 for c in p], minlength=16) for p in prompts]).astype(
            np.float32
        )


@pytest.fixture(scope="module")
def pictures():
    return np.random.default_rng(0).integers(0, 256, (COUNT, 32, 32, 3), np.uint8)


@pytest.fixture(scope="module")
def data():
    return SubjectData(
        np.arange(COUNT, dtype=np.int64) + 7,
        tuple(f"{'ab' * row} drawing" for row in range(COUNT)),
        torch.zeros(COUNT, 4, 4, 4),
        torch.zeros(COUNT, 5, 6),
        torch.zeros(5, 6),
        "toy",
    )


@pytest.fixture
def make(model, data, pictures, monkeypatch):
    # Queries decode to training pictures 3, 1, 8 and 0, a little changed.
    noise = np.random.default_rng(1).integers(-3, 4, (4, 32, 32, 3))
    decoded = (pictures[[3, 1, 8, 0]].astype(int) + noise).clip(0, 255).astype(np.uint8)
    monkeypatch.setattr(features, "decode", lambda autoencoder, latents: decoded[: len(latents)])

    def make(kind, ids=None, towers=None):
        # The corpus has them in another order than the training set.
        order = np.arange(COUNT)[::-1]
        method = features.RawFeatures(
            kind, towers or Towers(), None, pictures[order], data.ids[order] if ids is None else ids
        )
        method.fit(data, model)
        return method

    return make


@pytest.mark.parametrize("kind", ["image", "pixels"])
def test_a_query_is_nearest_to_the_picture_that_it_shows(kind, make, data, queries):
    assert make(kind).score(queries, data.ids).argmax(axis=1).tolist() == [3, 1, 8, 0]


def test_pixels_are_the_negative_mean_squared_difference(make, data, queries, pictures):
    scores = make("pixels").score(queries, data.ids)
    decoded = features.decode(None, queries.latents).astype(float) / 255
    for query in range(4):
        wanted = -((decoded[query] - pictures.astype(float) / 255) ** 2).mean(axis=(1, 2, 3))
        np.testing.assert_allclose(scores[query], wanted, atol=1e-6)


def test_joined_is_the_mean_of_both_cosines(make, data, queries):
    image, text, joined = (make(kind).score(queries, data.ids) for kind in ("image", "text", "joined"))
    np.testing.assert_allclose(joined, (image + text) / 2, atol=1e-6)
    assert np.abs(joined).max() <= 1.0 + 1e-6


def test_both_sides_are_resized_alike(make, data, queries):
    towers = Towers()
    make("image", towers=towers).score(queries, data.ids)
    assert towers.sizes == {(40, 40, 3)}


@pytest.mark.parametrize("kind", ["image", "text", "joined", "pixels"])
def test_scores_do_not_depend_on_order_subset_or_company(kind, make, data, queries):
    method = make(kind)
    wanted = method.score(queries, data.ids)
    order = np.random.default_rng(2).permutation(COUNT)
    np.testing.assert_allclose(method.score(queries, data.ids[order]), wanted[:, order], atol=1e-6)
    np.testing.assert_allclose(
        method.score(queries.take([0]), data.ids[[5, 2]]), wanted[:1, [5, 2]], atol=1e-6
    )
    assert method.cost.forward_passes == 0 and method.cost.candidates == 2
    assert method.cost.bytes_per_item == {"image": 16, "text": 64, "joined": 80, "pixels": 32 * 32 * 3}[kind]


def test_what_does_not_fit_is_refused(make, model, data, pictures, queries):
    with pytest.raises(SubjectError, match=r"has no picture of 1 training items, e\.g\. 18"):
        make("pixels", ids=np.arange(COUNT) + 6)
    with pytest.raises(TeacherError, match="kind: 'audio'"):
        features.RawFeatures("audio", Towers(), None, pictures, data.ids)
    with pytest.raises(TeacherError, match="pictures: 12 for 3 ids"):
        features.RawFeatures("pixels", Towers(), None, pictures, data.ids[:3])
    with pytest.raises(TeacherError, match="towers: are missing; joined features"):
        features.RawFeatures("joined", None, None, pictures, data.ids)
    with pytest.raises(TeacherError, match="queries: come from model other"):
        make("text").score(dataclasses.replace(queries, weights="other"), data.ids)


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """A corpus of drawings, an autoencoder that was not trained, and both as a context."""
    folder = tmp_path_factory.mktemp("real")
    corpus = synthetic_corpus(folder / "corpus", 8)
    torch.manual_seed(0)
    autoencoder = new_autoencoder(PRESETS["tiny"]).eval()
    autoencoder.save_pretrained(folder / "subject" / "vae")
    data = SubjectData(
        np.array([item.id for item in corpus], np.int64),
        tuple(item.caption for item in corpus),
        torch.zeros(8, 4, 4, 4),
        torch.zeros(8, 5, 6),
        torch.zeros(5, 6),
        "toy",
    )
    return corpus, autoencoder, data, Context(folder / "subject", corpus, folder / "cache")


def test_pixels_by_name_compare_what_the_autoencoder_decodes(real, model, queries):
    corpus, autoencoder, data, context = real
    method = create("pixels", context)
    method.fit(data, model)
    shown = decode(autoencoder, queries.latents).astype(float) / 255
    stored = squares(corpus, 32, context.cache).astype(float) / 255
    wanted = -((shown[:, None] - stored[None]) ** 2).mean(axis=(2, 3, 4))
    np.testing.assert_allclose(method.score(queries, data.ids), wanted, atol=1e-5)


@pytest.mark.slow
def test_features_of_the_real_towers_by_name(real, model, queries):
    corpus, _, data, context = real
    asked = dataclasses.replace(queries.take([0]), prompts=(corpus[5].caption,))
    scores = {}
    for kind in ("image", "text", "joined"):
        method = create(kind, context)
        method.fit(data, model)
        scores[kind] = method.score(asked, data.ids)
    # Captions repeat: every item that has the query's is at the top.
    best = np.array([item.caption == corpus[5].caption for item in corpus])
    np.testing.assert_allclose(scores["text"][0][best], 1.0, atol=1e-5)
    assert (scores["text"][0][~best] < 0.999).all()
    np.testing.assert_allclose(scores["joined"], (scores["image"] + scores["text"]) / 2, atol=1e-5)
