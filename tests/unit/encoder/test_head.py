"""The head: what it keeps, what it leaves out, and what it is measured by."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from attributary_train.evaluation.copies import KINDS, changed_copy  # noqa: E402
from attributary_train.evaluation.retrieval import (  # noqa: E402
    CopyQueries,
    draw_concepts,
    draw_copies,
    measure_concepts,
    measure_copies,
)
from attributary_train.student.head import Head, HeadModule, Projection  # noqa: E402
from attributary_train.student.projections import Scatter, discriminant, principal  # noqa: E402
from attributary_train.towers.cache import FeatureCache  # noqa: E402
from attributary_train.towers.rows import unit  # noqa: E402


@pytest.fixture
def rng():
    return np.random.default_rng(3)


def test_module_equals_numpy(rng):
    image = Projection(rng.normal(size=9).astype(np.float32), rng.normal(size=(9, 4)).astype(np.float32))
    text = Projection(rng.normal(size=6).astype(np.float32), rng.normal(size=(6, 3)).astype(np.float32))
    head = Head(image, text, 1.0, 0.6)
    x, y = rng.normal(size=(5, 9)).astype(np.float32), rng.normal(size=(5, 6)).astype(np.float32)
    y[2] = 0
    flag = (np.abs(y).max(axis=1, keepdims=True) > 0).astype(np.float32)
    out = HeadModule(head)(torch.from_numpy(x), torch.from_numpy(y), torch.from_numpy(flag)).detach().numpy()
    assert np.abs(out - head.apply(x, y)).max() < 1e-6
    assert np.allclose(np.linalg.norm(out, axis=1), 1, atol=1e-6)
    assert not out[2, 4:].any()
    assert np.allclose(np.linalg.norm(out[0, 4:]) / np.linalg.norm(out[0, :4]), 0.6, atol=1e-5)


def test_save_and_load(rng, tmp_path):
    head = Head(
        Projection.identity(4), principal(Scatter.of(unit(rng.normal(size=(50, 3))))).keep(2, 0.5), 1, 0.3
    )
    head.save(tmp_path / "head.npz")
    again = Head.load(tmp_path / "head.npz")
    x, y = np.ones((1, 4), np.float32), np.ones((1, 3), np.float32)
    assert np.array_equal(head.apply(x, y), again.apply(x, y))


def test_principal_keeps_the_widest_directions_and_whitens(rng):
    features = (rng.normal(size=(4000, 3)) * [3, 1, 0.1] + [50, 0, 0]).astype(np.float32)
    features = np.concatenate([features, np.full((4000, 1), 50, np.float32)], axis=1)
    plain = principal(Scatter.of(features)).keep(2, 0.0)
    white = principal(Scatter.of(features)).keep(2, 1.0)
    spread = ((unit(features) - plain.mean) @ plain.matrix).std(axis=0)
    assert spread[0] > 1.5 * spread[1]
    spread = ((unit(features) - white.mean) @ white.matrix).std(axis=0)
    assert np.allclose(spread[0], spread[1], rtol=0.02)


def test_discriminant_leaves_out_what_copies_change(rng):
    items = rng.normal(size=(400, 16)).astype(np.float32)
    noise = np.zeros((400, 16), np.float32)
    noise[:, :4] = rng.normal(size=(400, 4)) * 3
    copies = items + noise
    scatter = Scatter.of(items, copies, np.arange(400))
    queries = CopyQueries(np.arange(400), ("cropped",) * 400, tuple(range(400)))

    def found(projection):
        groups = np.arange(400)
        return measure_copies(
            projection.apply(items), groups, projection.apply(copies), queries
        ).original_first

    plain, learned = (
        found(principal(scatter).keep(12, 0.0)),
        found(discriminant(scatter, 0.0, 0.05).keep(12, 0.0)),
    )
    assert learned > 0.95
    assert plain < 0.8


@pytest.mark.parametrize("dim", [0, 17])
def test_impossible_dimensions(rng, dim):
    with pytest.raises(ValueError, match="dim must be 1 to 16"):
        principal(Scatter.of(rng.normal(size=(30, 16)).astype(np.float32))).keep(dim, 0.0)


def test_fits_without_copies_and_with_fewer_items_than_dimensions(rng):
    features = rng.normal(size=(10, 16)).astype(np.float32)
    projection = discriminant(Scatter.of(features), 0.2, 0.1).keep(12, 0.5)
    assert np.isfinite(projection.apply(features)).all()


def test_splits_share_no_item_and_no_concept():
    ids = list(range(2000))
    drawn = {
        split: set(draw_copies(ids, split, 10_000).originals.tolist())
        for split in ("fit", "validation", "test")
    }
    assert sum(len(rows) for rows in drawn.values()) == len(set().union(*drawn.values())) == 2000
    names = [f"concept {i}" for i in range(300)]
    parts = [
        set(draw_concepts(names, names[:200], split).tolist()) for split in ("fit", "validation", "test")
    ]
    assert sum(map(len, parts)) == 200
    assert max(set().union(*parts)) == 199


def test_draws_repeat_and_use_every_kind():
    first, second = (draw_copies(list(range(500)), "test", 50) for _ in range(2))
    assert first.kinds == second.kinds
    assert np.array_equal(first.originals, second.originals)
    assert set(first.kinds) == set(KINDS)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_copies_are_changed_and_repeatable(rng, kind):
    picture = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
    copy = changed_copy(picture, kind, 7)
    assert copy.dtype == np.uint8
    assert copy.shape[2] == 3
    assert copy.shape != picture.shape or not np.array_equal(copy, picture)
    assert np.array_equal(copy, changed_copy(picture, kind, 7))


def test_measures_count_near_duplicates_apart():
    index = np.eye(4, dtype=np.float32)
    queries = CopyQueries(np.array([0, 1]), ("cropped", "rotated"), (0, 1))
    found = measure_copies(index, np.array([0, 1, 1, 3]), index[[0, 2]], queries)
    assert (found.original_first, found.group_first) == (0.5, 1.0)
    assert found.by_kind == {"cropped": 1.0, "rotated": 0.0}


def test_concepts_within_ten_of_many():
    rng = np.random.default_rng(0)
    index = unit(rng.normal(size=(50, 8)).astype(np.float32))
    order = np.argsort(-index @ index[0])
    names = np.array([f"c{i}" for i in range(50)])
    for place, expected in ((0, 1.0), (9, 1.0), (10, 0.0)):
        found = measure_concepts(index, names, index[:1], names[order[place : place + 1]])
        assert found.in_top_10 == expected
        assert found.first == (place == 0)


def test_cache_computes_each_key_once_and_survives_a_crash(tmp_path):
    asked = []

    def compute(rows):
        if 700 in rows:
            raise KeyboardInterrupt
        asked.extend(rows)
        return np.array([[row] for row in rows], np.float32)

    keys = [f"k{i}" for i in range(800)] + ["k0"]
    with pytest.raises(KeyboardInterrupt):
        FeatureCache(tmp_path, "x", 1).rows(keys, compute, 16)
    done = FeatureCache(tmp_path, "x", 1).rows(keys[:512], lambda rows: pytest.fail("kept already"), 16)
    assert done[:, 0].tolist() == list(range(512))
    asked.clear()
    rest = [key for key in keys if key != "k700"]
    rows = FeatureCache(tmp_path, "x", 1).rows(rest, lambda rows: np.ones((len(rows), 1), np.float32), 16)
    assert rows.shape == (800, 1)
    assert rows[-1] == 0
