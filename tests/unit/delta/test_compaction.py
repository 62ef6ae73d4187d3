"""Compaction: what it makes, what goes on meanwhile, and what is there when it fails."""

import shutil
import threading

import numpy as np
import pytest

from attributary.attribution.open import open_engine, open_preparer
from attributary.attribution.types import Options, Query
from attributary.bundle.bundle import Bundle
from attributary.delta import directory
from attributary.delta import store as store_module
from attributary.delta.directory import next_of
from attributary.delta.entry import Terms
from attributary.delta.journal.place import changes_of
from attributary.delta.selection import Selection
from attributary.delta.store import Store
from attributary.errors import (
    BundleError,
    DeletedError,
    PreconditionError,
    UnavailableError,
)

BY = {"who": "Kim", "why": "a test"}


def test_compaction_keeps_calibration_and_makes_golden_queries_anew(store, bundle_dir, new_item):
    before = store.engine.bundle
    store.add([new_item(1), new_item(2, 101)], **BY)
    store.delete(Selection(creator="Cy"), **BY)
    result = store.compact(**BY)
    after = Bundle.open(bundle_dir)
    assert (result.added, result.deleted) == (2, 15)
    assert after.manifest.calibration == before.manifest.calibration
    assert (after.manifest.item_count, after.manifest.withheld_count) == (len(after.items), 15) == (62, 15)
    assert after.manifest.creator_count == 4
    assert after.manifest.notes["compacted_from"] == before.manifest.bundle_id
    ids = {after.items.id_of(row) for row in np.flatnonzero(~after.items.withheld)}
    assert len(ids) == 47
    assert set(after.golden.ids.flat) <= ids
    assert not np.array_equal(after.golden.ids, before.golden.ids)
    # What was deleted is nowhere any more.
    assert [path.name for path in sorted((bundle_dir / "delta").iterdir())] == [
        f"{result.bundle_id}.log",
        "lock",
    ]
    assert not next_of(bundle_dir).exists()
    assert changes_of(after).revision == 2


def answers(engine, picture):
    return [
        engine.attribute(
            Query(image=picture(number), prompt=prompt),
            Options(top_k=min(32, engine.snapshot.candidate_count)),
        )
        for prompt in ("", "a red ellipse")
        for number in (2, 6, 9)
    ]


def shares(told):
    return [
        {**{item.id: item.share for item in answer.items}, **{c.creator: c.share for c in answer.creators}}
        for answer in told
    ]


def test_nobody_inherits_by_a_deletion_or_its_compaction(store, bundle_dir, picture, new_item):
    before = answers(store.engine, picture)
    store.delete(Selection(creator="Cy"), **BY)
    for _ in range(2):
        for engine in (store.engine, open_engine(bundle_dir)):
            for built, now in zip(before, answers(engine, picture), strict=True):
                (was,), (is_,) = shares([built]), shares([now])
                for name, share in is_.items():
                    assert share == pytest.approx(was.get(name, share), abs=1e-3)
                taken = {total.creator: total.share for total in built.creators}.get("Cy", 0.0)
                assert now.withheld_share == pytest.approx(taken, abs=1e-3)
                assert now.diffuse_share == pytest.approx(built.diffuse_share, abs=1e-3)
        assert store.compact(**BY).bundle_id == store.bundle_id
    # And what was withheld by an earlier compaction stays withheld by the next.
    store.add([new_item(1, 200)], **BY)
    assert store.compact(**BY).parent
    assert store.snapshot.bundle.manifest.withheld_count == 15
    assert (store.snapshot.item_count, store.snapshot.deleted_count, store.snapshot.added_count) == (46, 0, 0)


def test_a_name_that_a_compaction_forgets_goes_on_moving_nothing(store, bundle_dir, picture, new_item):
    store.add([new_item(1, creator="Rosa Lux")], **BY)
    for creator in ("Dee", "Rosa Lux"):
        store.delete(Selection(creator=creator), **BY)
    store.delete(Selection(ids=ids_of(store.snapshot, "Cy")), **BY)

    def tokens(engine, prompt):
        return engine.prepare(Query(image=picture(0), prompt=prompt)).tokens.tolist()

    named = [f"a red ellipse by {creator}" for creator in ("Dee", "Rosa Lux", "Cy")]
    for erase in (False, True):
        store.compact(erase=erase, **BY)
        for engine in (store.engine, open_engine(bundle_dir), open_preparer(bundle_dir)):
            plain = tokens(engine, "a red ellipse")
            assert [tokens(engine, prompt) for prompt in named] == [plain] * 3


def ids_of(snapshot, creator):
    items = snapshot.bundle.items
    return tuple(items.id_of(row) for row in range(len(items)) if items.creator(row) == creator)


def test_of_a_withheld_row_nothing_is_known(store, bundle_dir):
    store.delete(Selection(creator="Cy"), **BY)
    store.compact(**BY)
    items = Bundle.open(bundle_dir).items
    assert "Cy" not in items.creator_codes
    rows = np.flatnonzero(items.withheld)
    assert len(rows) == 15
    for row in rows.tolist():
        record = items.record(row)
        assert (record.id, record.caption, record.creator, record.uri, record.licence) == (0, "", "", "", "")
    assert items.row_of(0) is None
    for file in bundle_dir.rglob("*"):
        if file.is_file():
            assert b"pictures/2.png" not in file.read_bytes()


def test_erasing_leaves_no_vector_and_others_inherit(store, bundle_dir, picture):
    store.delete(Selection(creator="Cy"), **BY)
    withheld = [answer.withheld_share for answer in answers(store.engine, picture)]
    store.compact(**BY)
    assert store.compact(**BY).parent == ""
    assert store.compact(erase=True, **BY).parent
    after = Bundle.open(bundle_dir)
    assert (len(after.items), after.items.withheld, after.manifest.withheld_count) == (45, None, 0)
    assert max(withheld) > 0.1
    assert {answer.withheld_share for answer in answers(store.engine, picture)} == {0.0}
    assert store.history[-1].what.endswith(", erased")
    assert store.compact(erase=True, **BY).parent == ""


def test_a_copy_by_another_creator_does_not_bring_a_deleted_item_back(store, picture, new_item):
    items = store.engine.bundle.items
    asked = (Query(image=picture(2), prompt=items.caption(2)), Options(top_k=32))
    store.delete(Selection(ids=(1002,)), **BY)
    before = store.engine.attribute(*asked).withheld_share
    store.add([new_item(1, 2, caption=items.caption(2), creator="Eve")], terms=Terms(bring_back=True), **BY)
    answer = store.engine.attribute(*asked)
    assert before > 0.1
    assert answer.items[0].share == pytest.approx(answer.withheld_share, abs=1e-3)
    own = new_item(2, 2, caption=items.caption(2), creator=items.creator(2))
    store.add([own], terms=Terms(bring_back=True), **BY)
    answer = store.engine.attribute(*asked)
    assert answer.withheld_share < 1e-3
    assert store.snapshot.replaced.tolist() == [2]


def test_compacting_without_changes_does_nothing(store):
    assert store.compact(**BY).parent == ""
    assert store.history == []


def test_changes_during_a_compaction_go_to_both(store, bundle_dir, picture, new_item, monkeypatch):
    store.add([new_item(1)], **BY)
    inside, go_on = threading.Event(), threading.Event()
    build = store_module.compacted

    def slowly(*given):
        inside.set()
        assert go_on.wait(30)
        return build(*given)

    monkeypatch.setattr(store_module, "compacted", slowly)
    flipped = []
    compacting = threading.Thread(target=lambda: store.compact(flip=flipped.append, **BY))
    compacting.start()
    assert inside.wait(30)
    assert store.add([new_item(2, 9), new_item(1000)], **BY).outcomes[0] is None
    store.delete(Selection(ids=(1, 1001)), **BY)
    with pytest.raises(PreconditionError, match="running already"):
        store.compact(**BY)
    go_on.set()
    compacting.join()
    assert flipped == [store.engine]
    for engine in (store.engine, open_engine(bundle_dir)):
        assert engine.snapshot.item_count == 60
        assert engine.bundle.items.caption(engine.snapshot.row_of(2)) == "a red ellipse"
        for gone in (1, 1001):
            with pytest.raises(DeletedError):
                engine.snapshot.row_of(gone)
        assert engine.snapshot.revision == 3
    assert [entry.kind for entry in store.history] == ["add", "compact", "add", "delete"]
    assert [entry.revision for entry in store.history] == [1, 1, 2, 3]


@pytest.mark.parametrize("where", ["build", "exchange", "sync"])
def test_a_failed_compaction_leaves_everything_as_it_was(store, bundle_dir, new_item, monkeypatch, where):
    store.add([new_item(1)], **BY)
    engine, bundle_id = store.engine, store.bundle_id

    def fail(*_):
        raise OSError(28, "No space left on device")

    if where == "build":
        monkeypatch.setattr(store_module, "compacted", fail)
    else:
        monkeypatch.setattr(directory, "_swap" if where == "exchange" else "sync", fail)
    with pytest.raises(PreconditionError, match="cannot be compacted: No space left"):
        store.compact(**BY)
    monkeypatch.undo()
    assert (store.engine, store.bundle_id) == (engine, bundle_id)
    assert store.add([new_item(2)], **BY).outcomes == [None]
    assert open_engine(bundle_dir).snapshot.item_count == 62
    assert not next_of(bundle_dir).exists()
    assert store.compact(**BY).parent == bundle_id


def test_a_new_bundle_that_cannot_be_served_does_not_come_in(bundle_dir, new_item):
    def open_first_only(place):
        if place != bundle_dir:
            raise BundleError("collection", "holds another bundle")
        return open_engine(place)

    with Store(bundle_dir, open_first_only) as store:
        store.add([new_item(1)], **BY)
        with pytest.raises(PreconditionError, match=r"cannot be compacted: .*holds another bundle"):
            store.compact(**BY)
        assert store.engine.snapshot.item_count == 61
        assert not next_of(bundle_dir).exists()


def test_a_server_that_does_not_take_the_new_bundle_is_told_to_start_anew(
    store, bundle_dir, new_item, picture
):
    store.add([new_item(1)], **BY)
    served, before = store.engine, store.bundle_id

    def stuck(engine):
        raise TimeoutError

    with pytest.raises(PreconditionError, match=r"server: does not serve .* \(TimeoutError\)") as caught:
        store.compact(flip=stuck, **BY)
    assert caught.value.subject == "server"
    # What it cannot show is not acknowledged, and what it serves still answers.
    for change in (
        lambda: store.add([new_item(2)], **BY),
        lambda: store.delete(Selection(creator="Ann"), **BY),
        lambda: store.compact(**BY),
    ):
        with pytest.raises(PreconditionError, match="started anew"):
            change()
    assert served.attribute(Query(image=picture(3)), Options(top_k=61)).items
    store.close()
    with Store(bundle_dir, open_engine) as again:
        assert again.bundle_id != before
        assert again.snapshot.item_count == 61
        assert again.add([new_item(2)], **BY).outcomes == [None]


def test_a_new_bundle_whose_tokenizer_cannot_be_read_does_not_come_in(store, new_item, monkeypatch):
    store.add([new_item(1)], **BY)
    engine, bundle_id = store.engine, store.bundle_id

    def fail(*_):
        raise BundleError("tokenizer.json", "is not a tokenizer.json")

    monkeypatch.setattr("attributary.delta.store.Embedder", fail)
    with pytest.raises(PreconditionError, match=r"cannot be compacted: .*tokenizer\.json"):
        store.compact(**BY)
    monkeypatch.undo()
    assert (store.engine, store.bundle_id) == (engine, bundle_id)
    assert store.add([new_item(2)], **BY).outcomes == [None]


def test_items_are_embedded_after_a_compaction_of_what_nobody_serves(bundle_dir, new_item):
    with Store(bundle_dir) as store:
        store.add([new_item(1)], **BY)
        assert store.compact(**BY).parent
        assert store.add([new_item(2)], **BY).outcomes == [None]


class CheckedStore(Store):
    """Sees to it that the list of changes made meanwhile is only ever replaced by who holds the mutex."""

    def __setattr__(self, name, value):
        if name == "_meanwhile" and hasattr(self, "_stale"):
            assert self._mutex.locked()
        super().__setattr__(name, value)


@pytest.mark.parametrize("fails", [False, True])
def test_a_change_at_the_end_of_a_compaction_finds_its_list(bundle_dir, new_item, monkeypatch, fails):
    def fail(*_):
        raise OSError(28, "No space left on device")

    with CheckedStore(bundle_dir) as store:
        store.delete(Selection(creator="Ann"), **BY)
        if fails:
            monkeypatch.setattr(store_module, "compacted", fail)
            with pytest.raises(PreconditionError, match="No space"):
                store.compact(**BY)
        else:
            assert store.compact(**BY).deleted == 15


def test_a_system_without_exchange(store, bundle_dir, new_item, monkeypatch):
    monkeypatch.setattr(directory, "_exchange", lambda one, other: False)
    store.add([new_item(1)], **BY)
    assert store.compact(**BY).parent
    assert open_engine(bundle_dir).snapshot.item_count == 61


@pytest.mark.parametrize("names", [("next",), ("next", "old"), ("old",)])
def test_a_crash_between_two_renames_is_mended(bundle_dir, names):
    for name in names:
        shutil.copytree(bundle_dir, bundle_dir.with_name(f".bundle.{name}"))
    shutil.rmtree(bundle_dir)
    with Store(bundle_dir) as store:
        assert store.snapshot.item_count == 60
    assert sorted(path.name for path in bundle_dir.parent.iterdir()) == ["bundle"]


def test_a_closing_store_gives_up_its_compaction(store, new_item):
    store.add([new_item(1)], **BY)
    store.give_up_compaction()
    with pytest.raises(UnavailableError, match="given up"):
        store.compact(**BY)
    assert store.add([new_item(2)], **BY).outcomes == [None]
