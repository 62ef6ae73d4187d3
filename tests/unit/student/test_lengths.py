"""Items of different lengths: foretold from the embedding, carried by one more coordinate, the same for additions."""

import shutil

import numpy as np
import onnx
import onnx.version_converter
import pytest
import torch

from attributary.attribution.open import open_engine
from attributary.attribution.types import Options, Query
from attributary.building import build_bundle
from attributary.building.source import read_source
from attributary.delta.items import NewItem
from attributary.delta.store import Store
from attributary.encoder import OnnxEncoder
from attributary.errors import InvalidArgumentError
from attributary_train.errors import StudentError
from attributary_train.student.lengths import LONGEST, Lengths, fit_lengths, gradient_lengths
from attributary_train.student.lengths_making import join
from attributary_train.towers.graph import IR_VERSION, OPSET

DIM, ITEMS = 12, 200


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def vectors():
    rng = np.random.default_rng(0)
    return unit(rng.normal(size=(ITEMS, DIM)) + 1.5).astype(np.float32)


@pytest.fixture(scope="module")
def loud(vectors):
    """How long items are: by one direction of their embeddings, with noise."""
    rng = np.random.default_rng(1)
    return np.exp(1.5 * vectors[:, 0] + 0.05 * rng.normal(size=ITEMS)).astype(np.float32)


def both(lengths: Lengths, rows):
    with torch.no_grad():
        query, item = lengths(torch.from_numpy(np.asarray(rows, np.float32)))
    return query.numpy(), item.numpy()


def test_queries_and_items_are_unit_rows_and_an_item_speaks_as_loud_as_it_is_long(vectors, loud):
    fit = fit_lengths(vectors, loud, 1.0)
    query, item = both(fit.lengths, vectors)
    for rows in (query, item):
        assert rows.shape == vectors.shape
        assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    assert (query[:, -1] == 0).all() and (item[:, -1] > 0).all()
    apart = np.linalg.norm(item[:, :-1], axis=1)
    kept = fit.lengths.kept(torch.from_numpy(vectors)).numpy()
    away = np.linalg.norm(kept - kept.mean(0), axis=1)
    assert np.corrcoef(np.log(apart / away), np.log(loud))[0, 1] > 0.95
    assert fit.foretold > 0.95
    assert apart.max() == pytest.approx(LONGEST, abs=1e-4)


def test_without_a_power_all_that_is_taken_away_is_the_mean(vectors, loud):
    fit = fit_lengths(vectors, loud, 0.0)
    assert fit.spread == 0
    query, item = both(fit.lengths, vectors)
    kept = fit.lengths.kept(torch.from_numpy(vectors)).numpy()
    scores, wanted = query @ item.T, kept @ (kept - kept.mean(0)).T
    assert np.corrcoef(scores.ravel(), wanted.ravel())[0, 1] > 0.99999


def test_noise_is_not_foretold(vectors):
    fit = fit_lengths(vectors, np.exp(np.random.default_rng(2).normal(size=ITEMS)).astype(np.float32), 1.0)
    assert abs(fit.foretold) < 0.3


def test_an_addition_is_never_longer_than_the_longest(vectors, loud):
    fit = fit_lengths(vectors, loud, 1.0)
    extreme = np.concatenate([np.eye(DIM), -np.eye(DIM)]).astype(np.float32)
    assert np.linalg.norm(both(fit.lengths, extreme)[1][:, :-1], axis=1).max() <= LONGEST + 1e-5


def test_lengths_are_those_of_the_gradients_kernel():
    rng = torch.Generator().manual_seed(0)
    gradients = torch.randn(50, 20, generator=rng)
    told = gradient_lengths(gradients)
    rows = gradients.double().numpy()
    ridge = 0.1 * np.square(np.linalg.svd(rows, compute_uv=False)).mean()
    leverage = np.einsum("ng,gh,nh->n", rows, np.linalg.inv(rows.T @ rows + ridge * np.eye(20)), rows)
    assert np.allclose(told, np.sqrt(leverage) / np.sqrt(leverage).mean(), rtol=1e-4)
    with pytest.raises(StudentError, match="positive"):
        gradient_lengths(torch.zeros(5, 3))


@pytest.mark.parametrize("power", [-0.1, 2.1, float("nan")])
def test_a_power_out_of_range_is_refused(vectors, loud, power):
    with pytest.raises(StudentError, match="power"):
        fit_lengths(vectors, loud, power)


@pytest.fixture(scope="module")
def encoder_dir(tiny_encoder_dir, tmp_path_factory):
    """The tiny encoder with lengths."""
    folder = tmp_path_factory.mktemp("long") / "encoder"
    shutil.copytree(tiny_encoder_dir, folder)
    before = OnnxEncoder(tiny_encoder_dir / "encoder.onnx")
    rng, size = np.random.default_rng(0), before.spec.image_size
    pixels = rng.integers(0, 256, (64, size, size, 3), np.uint8)
    none = np.zeros((64, 1), np.int64)
    rows = before.encode(pixels, none, none)
    fit = fit_lengths(rows, np.exp(rng.normal(size=64)).astype(np.float32), 0.5)
    # Of the version that exports have.
    newer = onnx.version_converter.convert_version(onnx.load(tiny_encoder_dir / "encoder.onnx"), OPSET)
    newer.ir_version = IR_VERSION
    onnx.save(newer, folder / "unit.onnx")
    assert join(folder / "unit.onnx", fit.lengths, folder / "encoder.onnx") < 1e-4
    (folder / "unit.onnx").unlink()
    return folder


def test_an_encoder_without_lengths_places_items_where_queries_are(tiny_encoder_dir):
    encoder = OnnxEncoder(tiny_encoder_dir / "encoder.onnx")
    size = encoder.spec.image_size
    feed = (np.full((2, size, size, 3), 99, np.uint8), np.ones((2, 1), np.int64), np.ones((2, 1), np.int64))
    assert np.array_equal(encoder.encode_items(*feed), encoder.encode(*feed))


def test_items_of_a_bundle_and_additions_are_placed_as_items_and_queries_as_queries(
    encoder_dir, tiny, picture, tmp_path
):
    build_bundle(
        tiny.draw_corpus(tmp_path / "corpus", 60), encoder_dir, tmp_path / "bundle", probes=40, workers=1
    )
    encoder = OnnxEncoder(encoder_dir / "encoder.onnx")
    with Store(tmp_path / "bundle", open_engine) as store:
        store.add([NewItem(10**9, picture(100), "a red ellipse", "Eve")], who="alice", why="test")
        snapshot = store.engine.snapshot
        query = store.engine.prepare(Query(image=picture(100), prompt="a red ellipse"), Options(top_k=3))
        ids, mask = store.engine.tokenizer.pad([query.tokens])
        feed = (query.pixels[None], ids, mask)
        placed = snapshot.vectors_of(np.array([snapshot.row_of(10**9)])).astype(np.float32)
        assert np.allclose(placed, encoder.encode_items(*feed), atol=1e-3)
        assert np.array_equal(store.engine.embed([query]), encoder.encode(*feed))
        assert store.engine.embed([query])[0, -1] == 0
        built = snapshot.bundle.vectors.astype(np.float32)
        assert (placed[:, -1] > 0.1).all() and (built[:, -1] > 0.1).all()
        with pytest.raises(InvalidArgumentError, match=r"query\.embedding: must have 0 as its last value"):
            store.engine.attribute(Query(embedding=placed[0]))
        asked = store.engine.embed([query])[0]
        assert (
            len(store.engine.attribute(Query(embedding=asked.astype(np.float16).astype(np.float32))).items)
            > 0
        )


def test_an_embedding_chosen_for_an_item_is_no_nearer_than_its_own_picture(encoder_dir, tiny, tmp_path):
    corpus = tiny.draw_corpus(tmp_path / "corpus", 60)
    manifest = build_bundle(corpus, encoder_dir, tmp_path / "bundle", probes=40, workers=1).manifest
    engine = open_engine(tmp_path / "bundle")
    limit = manifest.encoder.own_cosine
    assert 0 < limit < 1
    vectors = engine.bundle.vectors.astype(np.float32)
    own = [engine.prepare(Query(image=path.read_bytes())) for path in read_source(corpus).pictures]
    pictures = engine.embed(own)
    for row in range(0, 60, 7):
        chosen = vectors[row].copy()
        chosen[-1] = 0
        length = np.linalg.norm(chosen)
        answer = engine.attribute(Query(embedding=chosen / length), Options(top_k=60))
        assert max(item.similarity for item in answer.items) <= limit * 1.001
        assert chosen @ chosen / length > limit * length
        # By one factor: the order stays.
        order = [engine.bundle.items.row_of(item.id) for item in answer.items]
        assert np.all(np.diff(vectors[order] @ chosen) <= 1e-3)
        creators = sum(one.share for one in answer.creators)
        assert abs(creators + answer.diffuse_share - 1) < 1e-4
    # A picture's embedding is answered as the picture.
    batch = [engine.prepare(Query(embedding=row)) for row in pictures[:20]]
    for query, picture, embedded in zip(own[:20], engine.run(own[:20]), engine.run(batch), strict=True):
        assert not query.showing.size
        near = picture.items[0].similarity
        assert embedded.items[0].id == picture.items[0].id
        assert embedded.items[0].similarity <= near + 1e-5
    # Beside pictures in one batch their answers stay what they are.
    mixed = engine.run([own[0], batch[0], own[1]])
    assert mixed[0].items == engine.run(own[:1])[0].items and mixed[2].items == engine.run(own[1:2])[0].items
