"""What is deleted in memory and what comes by the journal change one engine: neither undoes the other."""

import pytest

from attributary.attribution.open import open_engine
from attributary.delta import inherit
from attributary.delta.follower import Follower
from attributary.delta.inherit import hold, inherit_deletions
from attributary.delta.selection import Selection

BY = {"who": "Kim", "why": "a test"}


@pytest.mark.parametrize("writes", [False, True])
def test_a_change_that_comes_while_deletions_are_inherited_stays(store, bundle_dir, monkeypatch, writes):
    follower = Follower(open_engine(bundle_dir))
    engine = store.engine if writes else follower.engine
    other = Follower(open_engine(bundle_dir)).engine
    hold(other, {1003: "then"})

    def meanwhile(*_):
        store.delete(Selection(ids=(1001,)), **BY)
        follower.look()
        return {}

    monkeypatch.setattr(inherit, "_of_those_who_left", meanwhile)
    assert inherit_deletions(engine, other.snapshot, compacted=True)
    assert (set(engine.snapshot.deleted), engine.snapshot.revision) == ({1001, 1003}, 1)
    follower.look()
    assert (set(engine.snapshot.deleted), engine.snapshot.item_count) == ({1001, 1003}, 58)


def test_what_is_deleted_in_memory_outlasts_changes(store, bundle_dir, new_item):
    follower = Follower(open_engine(bundle_dir))
    for engine in (store.engine, follower.engine):
        hold(engine, {1003: "then"})
    for number in range(3):
        store.add([new_item(number)], **BY)
        store.delete(Selection(ids=(1010 + number,)), **BY)
        follower.look()
    for engine in (store.engine, follower.engine):
        assert set(engine.snapshot.deleted) == {1003, 1010, 1011, 1012}
        assert (engine.snapshot.item_count, engine.snapshot.revision) == (59, 6)
