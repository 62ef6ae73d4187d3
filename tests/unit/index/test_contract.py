"""What every `VectorIndex` promises, asked of each: exact FAISS, lists and a graph in FAISS, and Milvus.

ATTRIBUTARY_TEST_MILVUS_URI names a cluster to ask instead of milvus-lite.
"""

import numpy as np
import pytest

from attributary.index.faiss_index import FaissIndex
from attributary.index.milvus import MilvusIndex
from attributary.index.milvus_push import PushOptions, push
from attributary.index.planning import IndexBudget, Plan
from attributary.index.tuning import Exact, build_index, exact_neighbours, recall, train, tune

from .conftest import bundle_of, unit

SIZE, DIM = 6_000, 48


@pytest.fixture(scope="module")
def bundle(cloud):
    return bundle_of(cloud(SIZE, DIM))


@pytest.fixture(scope="module")
def queries(bundle):
    rng = np.random.default_rng(1)
    near = bundle.vectors[rng.choice(SIZE, 1_000, replace=False)].astype(np.float32)
    return unit(near + 0.05 * rng.normal(size=near.shape).astype(np.float32))


@pytest.fixture(scope="module")
def tuned(bundle, queries):
    return build_index(bundle.vectors, queries, IndexBudget(bytes_per_item=64, target_recall=0.95))


@pytest.fixture(scope="module", params=["flat", "ivf", "sq8", "graph", "milvus"])
def index(request, bundle, tuned):
    if request.param == "flat":
        import faiss

        flat = faiss.IndexFlatIP(DIM)
        flat.add(bundle.vectors.astype(np.float32))
        return FaissIndex(flat)
    if request.param == "ivf":
        return tuned.index
    if request.param in ("sq8", "graph"):
        plan = Plan("IVF64,SQ8", DIM, 64) if request.param == "sq8" else Plan("HNSW16,SQ8", DIM, 0, 16)
        held_out = unit(bundle.vectors[:20].astype(np.float32))
        budget = IndexBudget(target_recall=0.95)
        exact = Exact.of(bundle.vectors, held_out, held_out, budget)
        return tune(
            plan, train(plan, bundle.vectors, 0), bundle.vectors, held_out, held_out, budget, exact
        ).index
    server = request.getfixturevalue("milvus")
    push(bundle, server, PushOptions("test_contract", force=True))
    return MilvusIndex.open(bundle, server, "test_contract")


def test_says_what_it_holds(index):
    assert (index.size, index.dim) == (SIZE, DIM)


def test_finds_the_nearest(index, bundle, queries):
    found = index.search(queries[:200], 200)
    assert found.dtype == np.int64
    assert found.shape == (200, 200)
    assert recall(found, exact_neighbours(bundle.vectors, queries[:200], 10)) > 0.9


def test_no_row_twice(index, queries):
    for row in index.search(queries[:50], 50):
        found = row[row >= 0]
        assert len(set(found.tolist())) == len(found)


def test_batches_do_not_matter(index, queries):
    together = index.search(queries[:20], 30)
    alone = np.concatenate([index.search(query[None], 30) for query in queries[:20]])
    assert (np.sort(together, axis=1) == np.sort(alone, axis=1)).mean() > 0.99


@pytest.mark.parametrize("share", [0.999, 0.5, 0.05, 0.005])
def test_filter_restricts_the_search_itself(index, bundle, queries, share):
    passing = np.random.default_rng(2).random(SIZE) < share
    found = index.search(queries[:100], 100, np.packbits(passing, bitorder="little"))
    assert passing[found[found >= 0]].all()
    allowed = np.flatnonzero(passing)
    exact = allowed[exact_neighbours(bundle.vectors[allowed], queries[:100], 10)]
    assert recall(found, exact) > 0.8


def test_filter_by_creator_and_licence(index, bundle, queries):
    items = bundle.items
    passing = (items.creator_of_row != 2) & (items.licence_of_row == 1)
    found = index.search(queries[:50], 40, np.packbits(passing, bitorder="little"))
    assert (found >= 0).all()
    assert passing[found].all()


def test_fewer_that_pass_than_asked_for_are_all_found(index, queries):
    passing = np.zeros(SIZE, bool)
    passing[[5, 77, 4_321]] = True
    found = index.search(queries[:3], 9, np.packbits(passing, bitorder="little"))
    assert [sorted(row[row >= 0].tolist()) for row in found] == [[5, 77, 4_321]] * 3


def test_nothing_passes(index, queries):
    assert (index.search(queries[:2], 5, np.zeros(SIZE // 8, np.uint8)) == -1).all()


def test_no_queries(index):
    assert index.search(np.zeros((0, DIM), np.float32), 5).shape == (0, 5)
