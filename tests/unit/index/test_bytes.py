"""Lists of a byte a dimension: the kernel finds what FAISS finds in the same index."""

import faiss
import numpy as np
import pytest

from attributary.index import faiss_index
from attributary.index.faiss_index import FaissIndex
from attributary.index.planning import Plan
from attributary.index.tuning import train
from attributary.kernels import can_scan

from .conftest import unit

SIZE, LISTS = 5_000, 32

pytestmark = pytest.mark.skipif(not can_scan(64), reason="the compiled kernels cannot be loaded")


def _index(dim):
    rng = np.random.default_rng(dim)
    near = unit(rng.normal(size=(50, dim))[rng.integers(0, 50, SIZE)] + 0.7 * rng.normal(size=(SIZE, dim)))
    queries = unit(near[::100] + 0.3 * rng.normal(size=(50, dim)) / dim**0.5).astype(np.float32)
    plan = Plan(f"IVF{LISTS},SQ8", dim, LISTS)
    return train(plan, near.astype(np.float16), 0), queries


@pytest.fixture(scope="module")
def made():
    return _index(64)


def _with_faiss(index, queries, count, nprobe, **extra):
    return index.search(queries, count, params=faiss.SearchParametersIVF(nprobe=nprobe, **extra))[1]


def _common(found, wanted):
    return np.mean([len(np.intersect1d(a, b)) / len(b) for a, b in zip(found, wanted, strict=True)])


@pytest.mark.parametrize("dim", [20, 64, 100, 384])
def test_finds_what_faiss_finds(dim):
    index, queries = _index(dim)
    for nprobe, count in ((1, 10), (4, 100), (LISTS, 300)):
        found = FaissIndex(index, nprobe, 1).probe(queries, count, nprobe)
        wanted = _with_faiss(index, queries, count, nprobe)
        assert _common(found, wanted) > 0.995
        assert (found[:, 0] == wanted[:, 0]).mean() > 0.95


@pytest.mark.parametrize("isa", ["portable", "avx2", "avx512", "numpy"])
def test_every_path_finds_the_same(made, isa, monkeypatch):
    index, queries = made
    opened = FaissIndex(index, 4, 1)
    wanted = opened.probe(queries, 50, 4)
    monkeypatch.setenv("ATTRIBUTARY_KERNELS", isa)
    try:
        found = opened.probe(queries, 50, 4)
    except ValueError:
        pytest.skip(f"this machine lacks {isa}")
    assert _common(found, wanted) > 0.995


def test_many_centres_are_found_as_faiss_finds_them(made, monkeypatch):
    index, queries = made
    few = FaissIndex(index, 4, 1)
    monkeypatch.setattr(faiss_index, "_LARGE", 0)
    many = FaissIndex(index, 4, 1)
    for nprobe, count in ((1, 10), (4, 50), (LISTS, 300)):
        assert _common(many.probe(queries, count, nprobe), few.probe(queries, count, nprobe)) > 0.99
    alone = np.concatenate([many.probe(query[None], 40, 4) for query in queries])
    np.testing.assert_array_equal(many.probe(queries, 40, 4), alone)


def test_best_first_and_the_same_on_several_threads(made):
    index, queries = made
    found = FaissIndex(index, 8, 1).probe(queries, 40, 8)
    np.testing.assert_array_equal(found, FaissIndex(index, 8, 2).probe(queries, 40, 8))
    vectors = index.reconstruct_n(0, SIZE) if index.make_direct_map() is None else None
    similarity = np.take_along_axis(queries @ vectors.T, found, 1)
    assert (np.diff(similarity, axis=1) <= 1e-4).all()


def test_alone_as_in_any_batch(made):
    index, queries = made
    index = FaissIndex(index, 8, 1)
    alone = np.concatenate([index.probe(query[None], 40, 8) for query in queries])
    np.testing.assert_array_equal(index.probe(queries, 40, 8), alone)


def test_only_what_passes(made):
    index, queries = made
    allowed = np.packbits(np.arange(SIZE) % 7 == 0, bitorder="little")
    found = FaissIndex(index, 8, 1).probe(queries, 60, 8, allowed)
    wanted = _with_faiss(index, queries, 60, 8, sel=faiss.IDSelectorBitmap(allowed))
    assert (found[found >= 0] % 7 == 0).all()
    assert _common(found, wanted) > 0.995


def test_fewer_than_asked_for(made):
    index, queries = made
    found = FaissIndex(index, 1, 1).probe(queries, SIZE, 1)
    wanted = _with_faiss(index, queries, SIZE, 1)
    np.testing.assert_array_equal(np.sort(found, axis=1), np.sort(wanted, axis=1))


def test_another_filling_is_what_is_searched(made, tmp_path):
    index, queries = made
    copy = FaissIndex(faiss.clone_index(index), 8, 1)
    other = np.random.default_rng(9).normal(size=(300, 64)).astype(np.float16)
    copy.refill(other)
    found = copy.search(queries, 300)
    assert (np.sort(found, axis=1) == np.arange(300)).all()
    copy.write(tmp_path / "index")
    np.testing.assert_array_equal(found, FaissIndex.read(tmp_path / "index", 8, 1).search(queries, 300))
