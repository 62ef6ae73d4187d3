"""A bundle that is moved, or restored from a copy, under its writer: nothing more is acknowledged."""

import shutil

import pytest

from attributary.attribution.open import open_engine
from attributary.bundle.manifest import Manifest
from attributary.delta import store as store_module
from attributary.delta.follower import Follower
from attributary.delta.selection import Selection
from attributary.delta.store import Store
from attributary.errors import (
    PreconditionError,
)

BY = {"who": "Kim", "why": "a test"}


def restored_journal(directory):
    """An older copy of the journal over it, as a backup is put back."""
    [path] = (directory / "delta").glob("*.log")
    copy = shutil.copy(path, path.with_suffix(".copy"))
    copy.replace(path)


def restored_directory(directory):
    """A copy of the bundle in its place, the old one beside it, as a deployment does it."""
    shutil.copytree(directory, directory.with_name("copy"))
    directory.rename(directory.with_name("old"))
    directory.with_name("copy").rename(directory)


@pytest.mark.parametrize("meddle", [restored_journal, restored_directory, shutil.rmtree])
def test_nothing_is_acknowledged_that_the_bundle_in_place_does_not_hold(store, bundle_dir, new_item, meddle):
    store.add([new_item(1, creator="Ann")], **BY)
    meddle(bundle_dir)
    for change in (
        lambda: store.delete(Selection(creator="Ann"), **BY),
        lambda: store.add([new_item(2)], **BY),
        lambda: store.compact(**BY),
    ):
        with pytest.raises(PreconditionError, match="was moved or restored"):
            change()
    assert store.snapshot.revision == 1
    store.close()
    if bundle_dir.is_dir():
        with Store(bundle_dir, open_engine) as another:
            assert another.snapshot.revision == 1
            assert another.delete(Selection(creator="Ann"), **BY).revision == 2
        assert open_engine(bundle_dir).snapshot.revision == 2


def test_a_bundle_restored_during_a_compaction_is_not_replaced(store, bundle_dir, monkeypatch):
    store.delete(Selection(creator="Ann"), **BY)
    before = store.bundle_id
    made = store_module.compacted

    def meddled(*arguments):
        made(*arguments)
        restored_directory(bundle_dir)

    monkeypatch.setattr(store_module, "compacted", meddled)
    with pytest.raises(PreconditionError, match="was moved or restored"):
        store.compact(**BY)
    assert Manifest.read(bundle_dir).bundle_id == before


def test_a_link_that_is_led_to_a_copy_is_noticed_by_writers_and_followed_by_readers(bundle_dir, tmp_path):
    link, copy = tmp_path / "current", tmp_path / "copy"
    link.symlink_to(bundle_dir)
    follower = Follower(open_engine(link))
    with Store(link) as store:
        assert store.delete(Selection(ids=(1000,)), **BY).revision == 1
        store.compact(**BY)
        store.delete(Selection(ids=(1001,)), **BY)
        follower.look()
        assert (follower.status.state, set(follower.engine.snapshot.deleted)) == ("following", {1000, 1001})
        shutil.copytree(bundle_dir, copy)
        link.unlink()
        link.symlink_to(copy)
        with pytest.raises(PreconditionError, match="current was moved or restored"):
            store.delete(Selection(ids=(1002,)), **BY)
    with Store(link) as store:
        assert store.delete(Selection(ids=(1003,)), **BY).revision == 3
    follower.look()
    assert (follower.status.state, set(follower.engine.snapshot.deleted)) == ("following", {1000, 1001, 1003})
