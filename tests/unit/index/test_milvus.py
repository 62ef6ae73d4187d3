"""Milvus: parameters from the bundle, filters as expressions, pushes that resume, bundles that are not confused."""

from dataclasses import replace
from time import monotonic

import numpy as np
import pytest

from attributary import deadline
from attributary.errors import BundleError, DeadlineError, InvalidArgumentError, UnavailableError
from attributary.index.base import golden_recall
from attributary.index.milvus import MAX_LISTED_ROWS, FilterWriter, MilvusIndex, collection_of
from attributary.index.milvus_client import Label, MilvusServer
from attributary.index.milvus_push import PushOptions, drop, push
from attributary.index.planning import MAX_GPU_LIMIT, plan_milvus
from attributary.index.tuning import exact_neighbours

from .conftest import bundle_of, unit

SIZE, DIM = 1_200, 24


@pytest.fixture(scope="module")
def bundle(cloud):
    return bundle_of(cloud(SIZE, DIM, 5))


@pytest.fixture(scope="module")
def pushed(bundle, milvus):
    return push(bundle, milvus, PushOptions("test_pushed", force=True))


@pytest.fixture
def index(bundle, milvus, pushed):
    return MilvusIndex.open(bundle, milvus, "test_pushed")


def entry(factory, nprobe=32, candidates=100):
    return replace(bundle_of(np.ones((2, 8), np.float16)).manifest.index, factory=factory, nprobe=nprobe,
                   candidates=candidates)  # fmt: skip


# Parameters.


def test_the_bundles_codes_and_lists_are_taken_over():
    plan = plan_milvus(entry("IVF256,PQ96x4fs"), 14_893, 384)
    assert plan.index_type == "IVF_PQ"
    assert plan.build == {"nlist": 256, "m": 96, "nbits": 4}
    assert plan.search() == {"nprobe": 32}
    assert plan.search(10_000) == {"nprobe": 256}


def test_eight_bits_are_the_default_and_a_rotation_is_left_out():
    assert plan_milvus(entry("OPQ48_384,IVF256,PQ48"), 14_893, 384, "gpu").build["nbits"] == 8


def test_lists_are_planned_for_a_segment_and_keep_the_share_that_is_probed():
    plan = plan_milvus(entry("IVF65536,PQ48", nprobe=512), 400_000_000, 384, segment_rows=700_000)
    assert plan.lists == 2_048
    assert plan.probes / plan.lists == pytest.approx(512 / 65_536)


@pytest.mark.parametrize(
    ("factory", "choice", "wanted"),
    [("Flat", "auto", "FLAT"), ("Flat", "gpu", "GPU_BRUTE_FORCE"), ("IVF4,PQ8", "flat", "FLAT")],
)
def test_exact_scans(factory, choice, wanted):
    plan = plan_milvus(entry(factory), 1_000, 384, choice)
    assert (plan.index_type, plan.build, plan.search()) == (wanted, {}, {})


@pytest.mark.parametrize(
    ("factory", "choice", "field"),
    [
        ("HNSW32", "auto", "index.factory"),
        ("IVF256,PQ50", "auto", "index.factory"),
        ("IVF256,PQ48x12", "gpu", "index.factory"),
        ("Flat", "ivf", "index_type"),
    ],
)
def test_what_milvus_has_not_is_named(factory, choice, field):
    with pytest.raises(InvalidArgumentError) as caught:
        plan_milvus(entry(factory), 10_000, 384, choice)
    assert caught.value.field == field


def test_more_candidates_than_a_gpu_index_returns_are_refused():
    with pytest.raises(InvalidArgumentError, match=str(MAX_GPU_LIMIT)):
        plan_milvus(entry("IVF256,PQ48", candidates=MAX_GPU_LIMIT + 1), 10_000, 384, "gpu")


# Filters.


@pytest.fixture(scope="module")
def writer():
    rows = np.arange(20_000, dtype=np.int32)
    return FilterWriter(rows % 50, rows % 3)


def written(writer, passing):
    return writer.write(np.packbits(passing, bitorder="little"))


def test_everything_passes_without_an_expression(writer):
    assert written(writer, np.ones(20_000, bool)).expression == ""


def test_creators_and_licences_are_named_by_the_shorter_list(writer):
    rows = np.arange(20_000)
    filter_ = written(writer, (rows % 50 != 7) & (rows % 3 == 1))
    assert filter_.expression == "creator not in [7] and licence in [1]"
    assert filter_.exact


def test_few_rows_are_listed(writer):
    passing = np.zeros(20_000, bool)
    passing[[3, 9]] = True
    assert written(writer, passing).expression == "row in [3,9]"
    assert written(writer, ~passing).expression == "row not in [3,9]"


def test_rows_that_are_missing_from_a_creators_class_are_listed_beside_it(writer):
    rows = np.arange(20_000)
    passing = rows % 50 < 40
    passing[[0, 1]] = False
    filter_ = written(writer, passing)
    assert filter_.expression == "creator not in [40,41,42,43,44,45,46,47,48,49] and row not in [0,1]"
    assert filter_.exact


def test_what_cannot_be_said_is_said_too_widely_and_known(writer):
    passing = np.random.default_rng(0).random(20_000) < 0.5
    filter_ = written(writer, passing)
    assert not filter_.exact
    assert filter_.passing - filter_.allowed > MAX_LISTED_ROWS
    assert filter_.allowed == passing.sum()


def test_a_bitmap_that_was_changed_in_place_is_another_filter(writer):
    bitmap = np.zeros(2_500, np.uint8)
    bitmap[0] = 1
    assert writer.write(bitmap).expression == "row in [0]"
    bitmap[0] = 2
    assert writer.write(bitmap).expression == "row in [1]"


# Results.


def test_same_ids_as_flat_search_for_a_thousand_queries(bundle, index):
    if index.plan.lists:
        pytest.skip("a real IVF_PQ is approximate: its recall is measured, not its ids")
    rng = np.random.default_rng(3)
    queries = unit(rng.normal(size=(1_000, DIM)).astype(np.float32))
    exact = exact_neighbours(bundle.vectors, queries, 11)
    found = np.concatenate([index.search(queries[start : start + 100], 10) for start in range(0, 1_000, 100)])
    similarity = np.einsum("qd,qkd->qk", queries, bundle.vectors[exact].astype(np.float32))
    # Where the tenth and eleventh are equal to the last digits, either is right.
    clear = similarity[:, 9] - similarity[:, 10] > 1e-6
    assert clear.sum() > 990
    assert (np.sort(found[clear], axis=1) == np.sort(exact[clear, :10], axis=1)).all()


def test_golden_queries_are_found(bundle, index):
    assert golden_recall(index, bundle) >= 0.9


def test_golden_recall_sees_an_index_of_other_vectors(bundle, index, cloud):
    assert golden_recall(index, bundle_of(cloud(SIZE, DIM, 6))) < 0.5


def test_more_candidates_than_milvus_returns(index):
    with pytest.raises(InvalidArgumentError, match="at most"):
        index.search(np.zeros((1, DIM), np.float32), index.plan.limit + 1)


# Pushes.


def test_push_reports_and_repeats_cheaply(bundle, milvus, pushed):
    assert (pushed.rows, pushed.sent) == (SIZE, SIZE)
    again = push(bundle, milvus, PushOptions("test_pushed"))
    assert (again.rows, again.sent) == (SIZE, 0)


def test_a_push_that_was_cut_resumes(bundle, milvus, monkeypatch):
    monkeypatch.setattr("attributary.index.milvus_push._MAX_BATCH_ROWS", 100)

    class CutError(Exception):
        pass

    def cut(done, total):
        if done >= 500:
            raise CutError

    with pytest.raises(CutError):
        push(bundle, milvus, PushOptions("test_cut", force=True), cut)
    with pytest.raises(BundleError, match=r"holds 500 of 1200 items|not loaded"):
        MilvusIndex.open(bundle, milvus, "test_cut")
    assert push(bundle, milvus, PushOptions("test_cut")).sent == SIZE - 500
    assert golden_recall(MilvusIndex.open(bundle, milvus, "test_cut"), bundle) >= 0.9


def test_a_batch_that_arrived_in_part_is_written_over(bundle, milvus, monkeypatch):
    monkeypatch.setattr("attributary.index.milvus_push._MAX_BATCH_ROWS", 100)
    stop = RuntimeError("cut")

    def cut(done, total):
        raise stop

    with pytest.raises(RuntimeError, match="cut"):
        push(bundle, milvus, PushOptions("test_part", force=True), cut)
    vector = bundle.vectors[150].astype(np.float32)
    milvus.call("insert", "test_part", data=[{"row": 150, "vector": vector, "creator": 0, "licence": 0}])
    done = push(bundle, milvus, PushOptions("test_part"))
    assert (done.rows, done.sent) == (SIZE, SIZE - 100)


def test_another_bundles_collection_is_refused_by_name(bundle, milvus, pushed, cloud):
    other = bundle_of(cloud(SIZE, DIM, 5), version="2")
    ours, theirs = other.manifest.bundle_id, bundle.manifest.bundle_id
    for attempt in (
        lambda: MilvusIndex.open(other, milvus, "test_pushed"),
        lambda: push(other, milvus, PushOptions("test_pushed")),
    ):
        with pytest.raises(BundleError, match=f"test_pushed.*holds bundle {theirs}, this is bundle {ours}"):
            attempt()


def test_another_layout_needs_force(bundle, milvus, pushed, monkeypatch):
    monkeypatch.setattr("attributary.index.milvus_push._MAX_BATCH_ROWS", 100)
    with pytest.raises(BundleError, match="laid out"):
        push(bundle, milvus, PushOptions("test_pushed"))


def test_a_missing_collection_says_how_to_make_it(bundle, milvus):
    with pytest.raises(BundleError, match=f"{collection_of(bundle.manifest.bundle_id)}.*index push"):
        MilvusIndex.open(bundle, milvus)


def test_somebody_elses_collection_is_neither_served_nor_dropped(bundle, milvus):
    if not milvus.call("has_collection", "test_foreign"):
        milvus.call("create_collection", "test_foreign", dimension=DIM)
    with pytest.raises(BundleError, match="not made by"):
        MilvusIndex.open(bundle, milvus, "test_foreign")
    with pytest.raises(BundleError, match="not made by"):
        push(bundle, milvus, PushOptions("test_foreign"))
    with pytest.raises(BundleError, match="left as it is"):
        drop(milvus, "test_foreign")
    assert milvus.call("has_collection", "test_foreign")


def test_drop(cloud, milvus):
    push(bundle_of(cloud(50, DIM)), milvus, PushOptions("test_drop"))
    drop(milvus, "test_drop")
    with pytest.raises(BundleError, match="does not exist"):
        drop(milvus, "test_drop")


def test_milvus_lite_has_no_gpu(bundle, milvus):
    if not milvus.is_lite:
        pytest.skip("a real Milvus may have one")
    with pytest.raises(InvalidArgumentError, match="index_type"):
        push(bundle, milvus, PushOptions("test_gpu", "gpu"))


@pytest.mark.parametrize("field", ["shards", "replicas"])
def test_wrong_layouts_name_the_field(field):
    with pytest.raises(InvalidArgumentError) as caught:
        PushOptions(**{field: 0})
    assert caught.value.field == field


def test_a_label_survives_both_ways_of_keeping_it(bundle):
    plan = plan_milvus(bundle.manifest.index, SIZE, DIM)
    label = Label("ab", "cd", SIZE, DIM, 100, plan)
    assert Label.read({"description": label.to_json()}) == label
    assert Label.read({"properties": {"attributary": label.to_json()}}) == label
    for text in ("", "a collection", "{}", '{"attributary": {"bundle_id": "x"}}', '{"attributary": 3}', "[]"):
        assert Label.read({"description": text}) is None


# A server that is away.


def test_nobody_there(free_port):
    with pytest.raises(UnavailableError, match=str(free_port)):
        MilvusServer(f"http://127.0.0.1:{free_port}", timeout_s=1)


@pytest.mark.parametrize("timeout_s", [0, -1, float("nan")])
def test_a_timeout_must_be_one(timeout_s):
    with pytest.raises(InvalidArgumentError, match="milvus_timeout_s"):
        MilvusServer("http://127.0.0.1:1", timeout_s=timeout_s)


def test_the_callers_deadline_ends_a_search(index):
    with deadline.until(monotonic() - 1), pytest.raises(DeadlineError):
        index.search(np.ones((1, DIM), np.float32), 5)
    with deadline.until(monotonic() + 60):
        assert (index.search(np.ones((1, DIM), np.float32), 5) >= 0).all()


def test_a_collection_that_was_released_is_loaded_again(index, milvus):
    milvus.call("release_collection", "test_pushed")
    assert (index.search(np.ones((1, DIM), np.float32), 5) >= 0).all()


@pytest.fixture
def own_server(tmp_path, cloud):
    """A milvus-lite of its own behind a port, a bundle in it, and its stop button."""
    from milvus_lite.adapter.grpc.server import start_server_in_thread

    running, database, port = start_server_in_thread(str(tmp_path / "own.db"))
    server = MilvusServer(f"http://127.0.0.1:{port}", timeout_s=1.0)
    bundle = bundle_of(cloud(100, DIM))
    push(bundle, server, PushOptions("test_own"))
    yield MilvusIndex.open(bundle, server, "test_own"), running, server
    running.stop(0)
    database.close()
    server.close()


def test_a_server_that_leaves_is_unavailable_and_then_said_to_be_at_once(own_server, monkeypatch):
    index, running, server = own_server
    query = np.ones((1, DIM), np.float32)
    assert (index.search(query, 5) >= 0).all()
    running.stop(0).wait()
    with pytest.raises(UnavailableError):
        index.search(query, 5)
    monkeypatch.setattr(server, "call", lambda *_, **__: pytest.fail("it was asked again at once"))
    with pytest.raises(UnavailableError):
        index.search(query, 5)


def test_a_deadline_that_passes_while_waiting_is_the_callers(own_server, monkeypatch):
    index, _, server = own_server
    monkeypatch.setattr(server, "timeout_s", 30.0)
    import threading

    held = threading.Event()
    monkeypatch.setattr(server._client, "search", lambda *_, **__: held.wait(20))
    with deadline.until(monotonic() + 0.05), pytest.raises(DeadlineError):
        index.search(np.ones((1, DIM), np.float32), 5)
    held.set()
