"""Planning, tuning and searching: the recall that is promised is reached, and filters restrict the search."""

import faiss
import numpy as np
import pytest

from attributary.errors import BundleError, InvalidArgumentError
from attributary.index.faiss_index import FaissIndex
from attributary.index.planning import FLAT_BELOW, GPU_SUBQUANTISERS, IndexBudget, Plan, list_count, plans
from attributary.index.tuning import Exact, build_index, exact_neighbours, recall, train, tune

DIM, SIZE = 48, 6_000


@pytest.fixture(scope="module")
def vectors():
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(200, DIM))
    points = centres[rng.integers(0, 200, SIZE)] + 0.6 * rng.normal(size=(SIZE, DIM))
    return (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float16)


@pytest.fixture(scope="module")
def queries(vectors):
    rng = np.random.default_rng(1)
    near = vectors[rng.choice(SIZE, 400, replace=False)].astype(np.float32) + 0.05 * rng.normal(
        size=(400, DIM)
    ).astype(np.float32)
    return near / np.linalg.norm(near, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def ties():
    """Vectors near a few directions, fp16 [6000, 64], and queries among them, float32 [60, 64]."""
    rng = np.random.default_rng(5)
    near = rng.normal(size=(4, 64))[rng.integers(0, 4, 6_060)] + 0.2 * rng.normal(size=(6_060, 64))
    near = (near / np.linalg.norm(near, axis=1, keepdims=True)).astype(np.float32)
    return near[60:].astype(np.float16), near[:60]


@pytest.fixture(scope="module")
def tuned(vectors, queries):
    return build_index(vectors, queries, IndexBudget(bytes_per_item=64, target_recall=0.95))


def test_tuned_index_reaches_its_target_on_queries_it_was_not_tuned_on(tuned):
    assert tuned.met
    assert "x4fs" in tuned.factory
    assert tuned.recall_at_10 >= 0.93
    assert tuned.bytes_per_item <= 64
    assert tuned.recall_queries == 200


def test_reported_recall_is_what_a_caller_gets(tuned, vectors, queries):
    found = tuned.index.search(queries, tuned.candidates)
    exact = exact_neighbours(vectors, queries, 10)
    assert recall(found, exact) == pytest.approx(tuned.recall_at_10, abs=0.02)


def test_exact_neighbours_match_a_plain_sort(vectors, queries):
    similarity = queries[:20] @ vectors.astype(np.float32).T
    plain = np.argsort(-similarity, axis=1, kind="stable")[:, :10]
    assert (exact_neighbours(vectors, queries[:20], 10, block=700) == plain).mean() > 0.99


def test_recall_counts_only_what_was_found():
    assert recall(np.array([[1, 2, -1]]), np.array([[2, 9]])) == 0.5


@pytest.mark.parametrize("share", [0.5, 0.05])
def test_filter_restricts_the_search_itself(tuned, vectors, queries, share):
    passing = np.random.default_rng(2).random(SIZE) < share
    bitmap = np.packbits(passing, bitorder="little")
    found = tuned.index.search(queries, 50, bitmap)
    assert passing[found[found >= 0]].all()
    allowed = np.flatnonzero(passing)
    exact = allowed[exact_neighbours(vectors[allowed], queries, 10)]
    assert recall(found, exact) > 0.8


def test_small_corpora_are_scanned_exactly(vectors, queries):
    small = vectors[:500]
    tuned = build_index(small, queries, IndexBudget())
    assert (tuned.factory, tuned.recall_at_10, tuned.met) == ("Flat", 1.0, True)
    assert recall(tuned.index.search(queries, 10), exact_neighbours(small, queries, 10)) > 0.99


def test_fewer_items_than_asked_for_are_padded(vectors, queries):
    tuned = build_index(vectors[:5], queries, IndexBudget())
    found = tuned.index.search(queries[:2], 9)
    assert (found[:, 5:] == -1).all()
    assert sorted(found[0, :5].tolist()) == [0, 1, 2, 3, 4]


def test_unreachable_target_is_reported_not_hidden(vectors, queries):
    tuned = build_index(
        vectors, queries, IndexBudget(bytes_per_item=12, target_recall=1.0, max_candidates=10)
    )
    assert not tuned.met
    assert tuned.recall_at_10 < 1


def test_a_budget_with_room_gets_the_recall_that_no_short_code_reaches(ties):
    """Near ties: a quantiser's candidates are as good as drawn, a byte a dimension tells them apart."""
    vectors, queries = ties
    budget = IndexBudget(bytes_per_item=100, target_recall=0.95, recall_at=100, max_candidates=150)
    code = Plan("IVF64,PQ16x4fs", 8, 64)
    exact = Exact.of(vectors, queries[:30], queries[30:], budget)
    assert not tune(code, train(code, vectors, 0), vectors, queries[:30], queries[30:], budget, exact).met
    built = build_index(vectors, queries, budget)
    assert built.met
    assert built.factory.endswith("SQ8")
    assert built.bytes_per_item <= 100


@pytest.mark.parametrize("factory", ["IVF64,PQ12x4fs", "IVF64,SQ8", "IVF64,PQ8", "OPQ12_48,IVF64,PQ12x4fs"])
def test_lists_of_another_plan_make_the_index_that_faiss_makes(vectors, factory):
    plan, lists = Plan(factory, 6, 64), {}
    train(Plan("IVF64,PQ24x4fs", 12, 64), vectors, 0, lists)
    index = faiss.index_factory(DIM, factory, faiss.METRIC_INNER_PRODUCT)
    inner = faiss.downcast_index(faiss.extract_index_ivf(index))
    inner.cp.seed = 0
    if "PQ" in factory:
        inner.pq.cp.niter = 12
    index.train(vectors.astype(np.float32))
    index.add(vectors.astype(np.float32))
    for made in (train(plan, vectors, 0, lists), train(plan, vectors, 0)):
        np.testing.assert_array_equal(faiss.serialize_index(made), faiss.serialize_index(index))


def test_neighbours_are_those_of_a_whole_sort(vectors, queries):
    doubled = np.concatenate([vectors[:700], vectors[:700][::-1]])
    scores = queries @ doubled.astype(np.float32).T
    np.testing.assert_array_equal(
        exact_neighbours(doubled, queries, 30, block=256), np.argsort(-scores, axis=1, kind="stable")[:, :30]
    )
    assert exact_neighbours(vectors[:7], queries, 10).shape == (len(queries), 7)


def test_a_graph_is_the_same_each_time(ties):
    vectors, queries = ties
    plan = Plan("HNSW16,SQ8", vectors.shape[1], 0, 16)
    found = [FaissIndex(train(plan, vectors, 0), 64).search(queries, 20) for _ in range(2)]
    np.testing.assert_array_equal(*found)


def test_a_graph_s_search_is_restricted_by_what_passes(ties):
    vectors, queries = ties
    plan = Plan("HNSW16,SQ8", vectors.shape[1], 0, 16)
    index = FaissIndex(train(plan, vectors, 0), 64)
    rng = np.random.default_rng(0)
    for passing in (5, 300, len(vectors) // 2):
        chosen = np.zeros(len(vectors), bool)
        chosen[rng.choice(len(vectors), passing, replace=False)] = True
        rows = index.search(queries[:20], 100, np.packbits(chosen, bitorder="little"))
        assert ((rows >= 0).sum(axis=1) == min(100, passing)).all()
        assert chosen[rows[rows >= 0]].all()


def test_a_graph_that_was_emptied_answers_with_what_is_left(ties, tmp_path):
    """As a compaction leaves it: fewer items than the effort it was tuned to."""
    vectors, queries = ties
    index = FaissIndex(train(Plan("HNSW16,SQ8", vectors.shape[1], 0, 16), vectors, 0), 600)
    index.refill(vectors[:40])
    index.write(tmp_path / "index")
    rows = FaissIndex.read(tmp_path / "index", 600).search(queries[:5], 50)
    assert ((rows >= 0).sum(axis=1) == 40).all()


def test_graphs_and_bytes_stay_within_the_budget():
    factories = [plan.factory for plan in plans(100_000, 256, IndexBudget(bytes_per_item=420))]
    assert "IVF1024,SQ8" in factories
    assert "HNSW16,SQ8" in factories
    assert "HNSW32,SQ8" not in factories
    assert not any("SQ8" in plan.factory for plan in plans(100_000, 256, IndexBudget(target="gpu")))


def test_gpu_plans_use_only_what_the_gpu_has_kernels_for():
    factories = [plan.factory for plan in plans(100_000, 384, IndexBudget(bytes_per_item=128, target="gpu"))]
    assert factories[-1].startswith("OPQ")
    for factory in factories[:-1]:
        assert int(factory.split("PQ")[1]) in GPU_SUBQUANTISERS
        assert "x4fs" not in factory


def test_plans_stay_within_the_budget_and_grow():
    sizes = [plan.code_bytes for plan in plans(100_000, 384, IndexBudget(bytes_per_item=60))]
    assert sizes == sorted(sizes)
    assert max(sizes) <= 52
    assert next(plans(FLAT_BELOW - 1, 384, IndexBudget())).factory == "Flat"


@pytest.mark.parametrize(("items", "lists"), [(1, 1), (40, 1), (5_000, 128), (1_000_000, 2_048)])
def test_list_count(items, lists):
    assert list_count(items) == lists


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("target_recall", 0),
        ("target_recall", 1.5),
        ("bytes_per_item", 3),
        ("max_candidates", 5),
        ("target", "tpu"),
    ],
)
def test_wrong_budgets_name_the_field(field, value):
    with pytest.raises(InvalidArgumentError) as caught:
        IndexBudget(**{field: value})
    assert caught.value.field == field


def test_dimension_that_no_code_divides_is_an_error():
    with pytest.raises(InvalidArgumentError, match="bytes_per_item"):
        list(plans(100_000, 7, IndexBudget(bytes_per_item=12)))


def test_written_index_answers_the_same(tuned, queries, tmp_path):
    tuned.index.write(tmp_path / "index.faiss")
    again = FaissIndex.read(tmp_path / "index.faiss", tuned.nprobe)
    assert (again.size, again.dim) == (SIZE, DIM)
    assert (again.search(queries, 20) == tuned.index.search(queries, 20)).all()
    with pytest.raises(BundleError, match="nprobe must be"):
        FaissIndex.read(tmp_path / "index.faiss", 100_000)


def test_corrupt_index_file_is_an_error_not_a_crash(tuned, tmp_path):
    path = tmp_path / "index.faiss"
    tuned.index.write(path)
    data = path.read_bytes()
    for keep in (0, 3, 40, len(data) // 2):
        path.write_bytes(data[:keep])
        with pytest.raises(BundleError, match=r"index.faiss"):
            FaissIndex.read(path, tuned.nprobe)
