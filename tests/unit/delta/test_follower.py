"""A follower beside a writer: what is acknowledged is there at the next look; what is not is never shown."""

import asyncio
import shutil
import threading

import pytest

from attributary.attribution.open import open_engine
from attributary.attribution.types import Options, Query
from attributary.bundle.bundle import delta_path
from attributary.delta import directory
from attributary.delta.follower import Follower
from attributary.delta.selection import Selection
from attributary.delta.store import Store
from attributary.errors import DeletedError, NotFoundError

BY = {"who": "Kim", "why": "a test"}


@pytest.fixture
def follower(bundle_dir):
    return Follower(open_engine(bundle_dir))


def same(follower, store, picture):
    asked = (Query(image=picture(3), prompt="a red ellipse"), Options(top_k=20))
    mine, theirs = follower.engine.attribute(*asked), store.engine.attribute(*asked)
    assert mine.items == theirs.items
    assert (mine.creators, mine.withheld_share) == (theirs.creators, theirs.withheld_share)
    assert follower.status.state == "following", follower.status
    assert follower.status.revision == store.snapshot.revision == follower.engine.snapshot.revision


def test_every_change_is_there_at_the_next_look(follower, store, picture, new_item):
    follower.look()
    same(follower, store, picture)
    for number in range(4):
        store.add([new_item(number, 100 + number), new_item(10 + number, 3)], **BY)
        store.delete(Selection(ids=(1003 + number, number)), **BY)
        follower.look()
        same(follower, store, picture)


def test_it_may_be_opened_at_any_revision(store, bundle_dir, picture, new_item):
    store.add([new_item(1)], **BY)
    followers = [Follower(open_engine(bundle_dir))]
    store.delete(Selection(creator="Ann"), **BY)
    followers.append(Follower(open_engine(bundle_dir)))
    store.add([new_item(2)], **BY)
    for follower in followers:
        follower.look()
        same(follower, store, picture)


def test_nothing_new_costs_one_stat(follower, store, monkeypatch):
    store.delete(Selection(creator="Ann"), **BY)
    follower.look()
    monkeypatch.setattr("pathlib.Path.open", lambda *given, **named: pytest.fail("the journal was opened"))
    follower.look()
    assert follower.status.state == "following"


def test_a_snapshot_is_never_half_a_change(follower, store, new_item, monkeypatch):
    """Ten changes that come together are one step; a query holds the snapshot of before or of after."""
    steps = []
    apply = type(follower.engine.snapshot).apply
    monkeypatch.setattr(
        type(follower.engine.snapshot),
        "apply",
        lambda snapshot, changes: steps.append(1) or apply(snapshot, changes),
    )
    for number in range(10):
        store.add([new_item(number)], **BY)
    steps.clear()
    before = follower.engine.snapshot
    follower.look()
    assert steps == [1]
    assert (before.revision, before.item_count) == (0, 60)
    assert (follower.engine.snapshot.revision, follower.engine.snapshot.item_count) == (10, 70)


def test_an_unfinished_record_is_left_for_later(follower, store):
    path = delta_path(store.directory, store.bundle_id)
    before = path.read_bytes()
    store.delete(Selection(creator="Ann"), **BY)
    whole = path.read_bytes()
    for size in range(len(before), len(whole), 7):
        path.write_bytes(whole[:size])
        follower.look()
        assert (follower.status.state, follower.engine.snapshot.revision) == ("following", 0)
    path.write_bytes(whole)
    follower.look()
    assert follower.engine.snapshot.revision == 1


@pytest.mark.parametrize("damage", ["bit", "shorter", "unreadable"])
def test_damage_is_said_and_nothing_is_undone(store, bundle_dir, damage):
    store.delete(Selection(creator="Ann"), **BY)
    now = [0.0]
    follower = Follower(open_engine(bundle_dir), clock=lambda: now[0])
    follower.look()
    path = delta_path(bundle_dir, store.bundle_id)
    first = path.read_bytes()
    store.delete(Selection(creator="Bo"), **BY)
    whole = path.read_bytes()
    if damage == "bit":
        path.write_bytes(whole[:-50] + bytes([whole[-50] ^ 1]) + whole[-49:])
    elif damage == "shorter":
        follower.look()
        path.write_bytes(first)
    else:
        path.write_bytes(whole + b"ATJR" + bytes(60) + b"x")
    served = follower.engine.snapshot
    for _ in range(2):
        now[0] += 5
        follower.look()
        assert follower.engine.snapshot is served
        status = follower.status
        assert (status.state, status.behind_s) == ("damaged", now[0])
        assert "was damaged: restore it" in status.reason
    with pytest.raises(DeletedError):
        follower.engine.snapshot.row_of(1000)
    # And once it is restored, life goes on.
    path.write_bytes(whole)
    follower.look()
    assert (follower.status.state, follower.status.behind_s, follower.status.revision) == ("following", 0, 2)


def test_changes_after_a_compaction_hold_before_the_new_bundle_is_open(store, follower, picture, new_item):
    store.add([new_item(1, 3)], **BY)
    follower.look()
    before = follower.engine.bundle.manifest.bundle_id
    store.compact(**BY)
    store.delete(Selection(ids=(1, 1002)), **BY)
    store.add([new_item(2, 9)], **BY)
    follower.look()
    assert follower.engine.bundle.manifest.bundle_id == before
    assert follower.successor == store.bundle_id
    assert (follower.status.state, follower.status.revision) == ("following", 3)
    for gone in (1, 1002):
        with pytest.raises(DeletedError):
            follower.engine.snapshot.row_of(gone)
    assert follower.engine.snapshot.row_of(2)
    follower = Follower(open_engine(store.directory))
    follower.look()
    same(follower, store, picture)


def test_deletions_that_were_compacted_away_unread_hold(store, follower):
    store.delete(Selection(ids=(1002,)), **BY)
    store.compact(**BY)
    store.delete(Selection(ids=(1003,)), **BY)
    store.compact(**BY)
    follower.look()
    assert (follower.status.state, follower.status.revision) == ("following", 2)
    for gone in (1002, 1003):
        with pytest.raises(DeletedError):
            follower.engine.snapshot.row_of(gone)


def test_additions_that_were_compacted_away_unread_wait_for_the_new_bundle(store, follower, new_item):
    store.add([new_item(1)], **BY)
    store.delete(Selection(ids=(1002,)), **BY)
    store.compact(**BY)
    store.delete(Selection(ids=(1003,)), **BY)
    store.add([new_item(2)], **BY)
    for _ in range(2):
        follower.look()
        status = follower.status
        assert (status.state, status.revision) == ("behind", 0)
        assert store.bundle_id in status.reason
        for gone in (1002, 1003):
            with pytest.raises(DeletedError):
                follower.engine.snapshot.row_of(gone)
        for missing in (1, 2):
            with pytest.raises(NotFoundError):
                follower.engine.snapshot.row_of(missing)
    after = Follower(open_engine(store.directory))
    after.look()
    assert (after.status.state, after.status.revision) == ("following", 4)


def test_another_bundle_in_the_place_is_not_followed(store, follower, tiny_bundle_dir):
    store.delete(Selection(creator="Ann"), **BY)
    follower.look()
    store.close()
    shutil.rmtree(store.directory)
    follower.look()
    assert (follower.status.state, "is not there" in follower.status.reason) == ("behind", True)
    shutil.copytree(tiny_bundle_dir, store.directory)
    for _ in range(2):
        follower.look()
        assert follower.status.state == "damaged"
        assert "was not compacted from" in follower.status.reason
    with pytest.raises(DeletedError):
        follower.engine.snapshot.row_of(1000)


def test_a_bundle_in_the_place_that_was_never_opened_for_changes_is_not_followed(
    follower, bundle_dir, tiny_bundle_dir
):
    from tests.unit.delta.test_layout import older

    shutil.rmtree(bundle_dir)
    shutil.copytree(tiny_bundle_dir, bundle_dir)
    shutil.rmtree(older(bundle_dir))
    follower.look()
    assert follower.status.state == "damaged"
    assert "was not compacted from" in follower.status.reason


def test_an_older_copy_that_is_put_back_before_the_first_look_is_said(store, bundle_dir):
    path = delta_path(bundle_dir, store.bundle_id)
    older = path.read_bytes()
    store.delete(Selection(creator="Ann"), **BY)
    whole = path.read_bytes()
    follower = Follower(open_engine(bundle_dir))
    path.write_bytes(older)
    for _ in range(2):
        follower.look()
        assert (follower.status.state, follower.status.revision) == ("damaged", 1)
        assert "an older copy" in follower.status.reason
    path.write_bytes(whole)
    follower.look()
    assert (follower.status.state, follower.status.revision) == ("following", 1)


def test_a_change_that_could_not_be_applied_is_not_passed_over(store, follower, monkeypatch):
    follower.look()
    store.delete(Selection(creator="Ann"), **BY)
    with monkeypatch.context() as patched:
        patched.setattr(type(follower.engine.snapshot), "apply", lambda *_: bytearray(1 << 62))
        for _ in range(2):
            with pytest.raises(MemoryError):
                follower.look()
            assert (follower.status.state, follower.status.revision) == ("behind", 0)
            assert "MemoryError" in follower.status.reason
    follower.look()
    assert (follower.status.state, follower.status.revision) == ("following", 1)


def test_a_volume_that_does_not_answer_is_said(bundle_dir, monkeypatch):
    now, seen = [0.0], []
    follower = Follower(open_engine(bundle_dir), clock=lambda: now[0])

    def slowly(reader):
        now[0] += 5
        seen.append(follower.status)
        return []

    monkeypatch.setattr("attributary.delta.follower.Reader.more", slowly)
    follower.look()
    assert [(status.state, status.behind_s) for status in seen] == [("behind", 5)]
    assert "does not answer" in seen[0].reason
    assert (follower.status.state, follower.status.behind_s) == ("following", 0)


def test_a_reader_that_opens_during_an_exchange_opens_one_of_the_two(
    store, bundle_dir, new_item, monkeypatch
):
    """Files are read by name: between two of them another bundle may take the place."""
    from attributary.attribution import open as opening
    from attributary.bundle import bundle as bundle_module

    store.add([new_item(1)], **BY)
    real, done = bundle_module.verify_files, []

    def slowly(directory, files):
        if not done and directory == bundle_dir:
            done.append(1)
            compacting = threading.Thread(target=lambda: store.compact(**BY))
            compacting.start()
            compacting.join()
        real(directory, files)

    monkeypatch.setattr(bundle_module, "verify_files", slowly)
    assert opening.open_engine(bundle_dir).bundle.manifest.bundle_id == store.bundle_id
    assert done


def test_a_journal_of_an_unopened_bundle_may_come_later(bundle_dir):
    from tests.unit.delta.test_layout import older

    shutil.rmtree(older(bundle_dir))
    follower = Follower(open_engine(bundle_dir))
    follower.look()
    assert follower.status.state == "following"
    with Store(bundle_dir) as store:
        store.delete(Selection(creator="Ann"), **BY)
    follower.look()
    assert (follower.status.state, follower.status.revision) == ("following", 1)


def test_between_two_renames_it_waits(follower, store, monkeypatch, new_item):
    store.add([new_item(1)], **BY)
    follower.look()
    seen = []
    monkeypatch.setattr(directory, "_exchange", lambda one, other: False)
    rename = directory.Path.rename

    def renamed(path, target):
        result = rename(path, target)
        if path == store.directory:
            follower.look()
            seen.append(follower.status.state)
        return result

    monkeypatch.setattr(directory.Path, "rename", renamed)
    store.compact(**BY)
    follower.look()
    assert seen == ["behind"]
    assert (follower.status.state, follower.successor) == ("following", store.bundle_id)


def test_a_gateway_beside_triton_follows(store, bundle_dir, new_item):
    """Its engine is a snapshot and a connection: changes are applied here, what is compacted is Triton's to load."""
    pytest.importorskip("tritonclient.grpc", reason="needs attributary[triton]")
    from attributary.triton.engine import TritonLink

    async def follow():
        link = TritonLink("127.0.0.1:9")
        try:
            follower = Follower(link.open(bundle_dir))
            built = store.bundle_id
            store.delete(Selection(creator="Ann"), **BY)
            store.add([new_item(1)], **BY)
            follower.look()
            assert follower.status.revision == follower.engine.snapshot.revision == 2
            assert (follower.engine.snapshot.item_count, len(follower.engine.snapshot.added)) == (46, 1)
            store.compact(**BY)
            store.delete(Selection(ids=(1, 1001)), **BY)
            follower.look()
            assert (follower.status.state, follower.status.revision) == ("following", 3)
            assert (follower.engine.bundle_id, follower.successor) == (built, store.bundle_id)
            for gone in (1, 1000, 1001):
                with pytest.raises(DeletedError):
                    follower.engine.snapshot.row_of(gone)
            # And the gateway that is started now opens what lies there, with all of it.
            again = link.open(bundle_dir)
            assert (again.bundle_id, again.snapshot.revision) == (store.bundle_id, 3)
            assert again.snapshot.item_count == store.snapshot.item_count == 44
        finally:
            await link.close()

    asyncio.run(follow())
