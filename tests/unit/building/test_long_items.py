"""Items that have lengths: placed as items, queries as queries; no embedding is nearer to one than its own picture."""

import numpy as np
import pytest

from attributary.attribution.open import open_engine
from attributary.attribution.types import Options, Query
from attributary.building import build_bundle
from attributary.building.source import read_source
from attributary.delta.items import NewItem
from attributary.delta.store import Store
from attributary.encoder import OnnxEncoder
from attributary.errors import InvalidArgumentError
from tests.support.long_encoder import lengthen


@pytest.fixture(scope="module")
def encoder_dir(tiny_encoder_dir, tmp_path_factory):
    dim = OnnxEncoder(tiny_encoder_dir / "encoder.onnx").spec.dim
    return lengthen(tiny_encoder_dir, tmp_path_factory.mktemp("long") / "encoder", dim)


def built(tiny, encoder_dir, folder):
    corpus = tiny.draw_corpus(folder / "corpus", 60)
    build_bundle(corpus, encoder_dir, folder / "bundle", probes=40, workers=1)
    return corpus, folder / "bundle"


def test_items_of_a_bundle_and_additions_are_placed_as_items_and_queries_as_queries(
    encoder_dir, tiny, picture, tmp_path
):
    _, bundle = built(tiny, encoder_dir, tmp_path)
    encoder = OnnxEncoder(encoder_dir / "encoder.onnx")
    with Store(bundle, open_engine) as store:
        store.add([NewItem(10**9, picture(100), "a red ellipse", "Eve")], who="alice", why="test")
        snapshot = store.engine.snapshot
        query = store.engine.prepare(Query(image=picture(100), prompt="a red ellipse"), Options(top_k=3))
        feed = (query.pixels[None], *store.engine.tokenizer.pad([query.tokens]))
        placed = snapshot.vectors_of(np.array([snapshot.row_of(10**9)])).astype(np.float32)
        assert np.allclose(placed, encoder.encode_items(*feed), atol=1e-3)
        asked = store.engine.embed([query])
        assert np.array_equal(asked, encoder.encode(*feed))
        assert asked[0, -1] == 0
        built_ones = snapshot.bundle.vectors.astype(np.float32)
        assert (placed[:, -1] > 0.1).all()
        assert (built_ones[:, -1] > 0.1).all()
        with pytest.raises(InvalidArgumentError, match=r"query\.embedding: must have 0 as its last value"):
            store.engine.attribute(Query(embedding=placed[0]))
        rounded = asked[0].astype(np.float16).astype(np.float32)
        assert len(store.engine.attribute(Query(embedding=rounded)).items) > 0


def test_the_limit_is_the_nearest_that_any_own_picture_is(encoder_dir, tiny, tmp_path):
    corpus, bundle = built(tiny, encoder_dir, tmp_path)
    engine = open_engine(bundle)
    items = engine.bundle.vectors.astype(np.float64)
    items[:, -1] = 0
    items /= np.linalg.norm(items, axis=1, keepdims=True)
    captions = [engine.bundle.items.caption(row) for row in range(60)]
    own = [
        engine.prepare(Query(image=path.read_bytes(), prompt=caption))
        for path, caption in zip(read_source(corpus).pictures, captions, strict=True)
    ]
    near = np.einsum("nd,nd->n", engine.embed(own), items)
    limit = engine.bundle.manifest.encoder.own_cosine
    assert near.max() <= limit + 1e-3
    assert limit < near.max() + 0.1


def test_where_nothing_is_shared_nothing_is_limited(tiny_encoder_dir, tiny, tmp_path):
    dim = OnnxEncoder(tiny_encoder_dir / "encoder.onnx").spec.dim
    folder = lengthen(tiny_encoder_dir, tmp_path / "encoder", dim, shared=0.0)
    _, bundle = built(tiny, folder, tmp_path)
    assert open_engine(bundle).bundle.manifest.encoder.own_cosine == 0


def test_an_embedding_chosen_for_an_item_is_no_nearer_than_its_own_picture(encoder_dir, tiny, tmp_path):
    corpus, bundle = built(tiny, encoder_dir, tmp_path)
    engine = open_engine(bundle)
    limit = engine.bundle.manifest.encoder.own_cosine
    vectors = engine.bundle.vectors.astype(np.float32)
    own = [engine.prepare(Query(image=path.read_bytes())) for path in read_source(corpus).pictures]
    pictures = engine.embed(own)
    assert 0 < limit < 1
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
    assert mixed[0].items == engine.run(own[:1])[0].items
    assert mixed[2].items == engine.run(own[1:2])[0].items
