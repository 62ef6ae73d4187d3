"""The journal travels inside the bundle: copies keep every opt-out or do not open; older layouts are moved in."""

import json
import shutil
import subprocess

import pytest
from click.testing import CliRunner

from attributary.attribution.open import open_engine, open_preparer
from attributary.bundle.bundle import Bundle, delta_path
from attributary.bundle.manifest import MANIFEST, Manifest
from attributary.cli.main import cli
from attributary.delta.journal.place import begin, changes_of
from attributary.delta.selection import Selection
from attributary.delta.store import Store
from attributary.errors import BundleError, DeletedError, PreconditionError

BY = {"who": "Kim", "why": "opted out"}
READERS = (open_engine, open_preparer, lambda place: changes_of(Bundle.open(place, verify=False)))


def creators(directory):
    snapshot = open_engine(directory).snapshot
    names = snapshot.bundle.items.creator_names
    return {names[code] for code, count in enumerate(snapshot.filters.creators) if count}


def older(directory):
    """The same bundle as releases before this one kept it: its journal beside it, nothing in its manifest."""
    bundle_id = Manifest.read(directory).bundle_id
    beside = directory.with_name(directory.name + ".journal")
    beside.mkdir()
    (beside / "lock").touch()
    shutil.move(delta_path(directory, bundle_id), beside)
    shutil.rmtree(directory / "delta")
    raw = json.loads((directory / MANIFEST).read_text())
    del raw["delta"]
    (directory / MANIFEST).write_text(json.dumps(raw))
    assert Manifest.read(directory).bundle_id == bundle_id
    return beside


@pytest.mark.parametrize("copy", ["cp -r", "cp -a", "mv", "tar"])
def test_an_opt_out_moves_with_the_bundle(bundle_dir, tmp_path, copy):
    with Store(bundle_dir) as store:
        store.delete(Selection(creator="Ann"), **BY)
    target = tmp_path / "moved"
    if copy == "tar":
        target.mkdir()
        subprocess.run(f"tar -C {bundle_dir} -c . | tar -C {target} -x", shell=True, check=True)
    else:
        subprocess.run([*copy.split(), str(bundle_dir), str(target)], check=True)
    assert creators(target) == {"Bo", "Cy", "Dee"}
    with Store(target) as store:
        store.delete(Selection(creator="Bo"), **BY)
        store.compact(**BY)
    assert creators(shutil.copytree(target, tmp_path / "again")) == {"Cy", "Dee"}


@pytest.mark.parametrize("changed", [False, True])
@pytest.mark.parametrize("left", ["folder", "file"])
def test_a_copy_without_its_journal_does_not_open(bundle_dir, changed, left):
    with Store(bundle_dir) as store:
        if changed:
            store.delete(Selection(creator="Ann"), **BY)
    if left == "folder":
        shutil.rmtree(bundle_dir / "delta")
    else:
        next((bundle_dir / "delta").glob("*.log")).unlink()
    for opening in (*READERS, Store):
        with pytest.raises(BundleError, match=r"delta/.*\.log: is missing.*cp -r"):
            opening(bundle_dir)


def test_every_build_begins_a_journal(bundle_dir):
    manifest = Manifest.read(bundle_dir)
    assert manifest.delta
    changes = changes_of(Bundle.open(bundle_dir))
    assert (changes.revision, changes.entries) == (0, [])


def test_the_journal_is_no_part_of_the_id(bundle_dir):
    from dataclasses import replace

    manifest = Manifest.read(bundle_dir)
    assert replace(manifest, delta=False).bundle_id == manifest.bundle_id
    assert replace(manifest, vectors_made_by="trained").bundle_id != manifest.bundle_id


def test_an_older_layout_is_refused_by_readers_and_moved_in_by_a_writer(bundle_dir, tmp_path):
    with Store(bundle_dir) as store:
        store.delete(Selection(creator="Ann"), **BY)
        bundle_id, history = store.bundle_id, store.history
    beside = older(bundle_dir)
    for opening in READERS:
        with pytest.raises(BundleError, match=r"bundle\.journal: .*attributary bundle adopt .*bundle`"):
            opening(bundle_dir)
    told = CliRunner().invoke(cli, ["bundle", "adopt", str(bundle_dir)])
    assert told.output == f"bundle {bundle_id} has its journal inside, revision 1\n"
    assert changes_of(Bundle.open(bundle_dir)).entries == history
    assert not beside.exists()
    assert creators(shutil.copytree(bundle_dir, tmp_path / "moved")) == {"Bo", "Cy", "Dee"}
    shutil.rmtree(tmp_path / "moved" / "delta")
    with pytest.raises(BundleError, match="is missing"):
        open_engine(tmp_path / "moved")


def test_an_older_bundle_without_changes_opens_and_is_marked_by_its_first_writer(bundle_dir):
    beside = older(bundle_dir)
    shutil.rmtree(beside)
    assert open_engine(bundle_dir).snapshot.revision == 0
    assert not Manifest.read(bundle_dir).delta
    with Store(bundle_dir) as store:
        assert store.snapshot.revision == 0
    assert Manifest.read(bundle_dir).delta


@pytest.mark.parametrize("crash", ["copied", "moved"])
def test_a_crash_while_moving_in_loses_nothing(bundle_dir, crash):
    with Store(bundle_dir) as store:
        store.delete(Selection(creator="Ann"), **BY)
    beside = older(bundle_dir)
    log = next(beside.glob("*.log"))
    (bundle_dir / "delta").mkdir()
    (shutil.copyfile if crash == "copied" else shutil.move)(log, bundle_dir / "delta" / log.name)
    with Store(bundle_dir) as store, pytest.raises(DeletedError):
        store.snapshot.row_of(1000)
    assert Manifest.read(bundle_dir).delta
    assert not beside.exists() or not list(beside.glob("*.log"))


def test_an_old_copy_beside_does_not_undo_what_was_done_since(bundle_dir, tmp_path):
    with Store(bundle_dir) as store:
        store.delete(Selection(creator="Ann"), **BY)
    log = next((bundle_dir / "delta").glob("*.log"))
    beside = bundle_dir.with_name("bundle.journal")
    beside.mkdir()
    shutil.copyfile(log, beside / log.name)
    fork = shutil.copytree(bundle_dir, tmp_path / "fork")
    with Store(bundle_dir.rename(tmp_path / "away")) as store:
        store.delete(Selection(creator="Bo"), **BY)
    (tmp_path / "away").rename(bundle_dir)
    (beside / "mine.txt").touch()
    with Store(bundle_dir) as store:
        assert store.snapshot.revision == 2
    assert [path.name for path in beside.iterdir()] == ["mine.txt"]
    with Store(fork) as store:
        store.delete(Selection(creator="Cy"), **BY)
    shutil.copyfile(fork / "delta" / log.name, beside / log.name)
    with pytest.raises(BundleError, match="two stories of the same bundle"):
        Store(bundle_dir)
    assert (beside / log.name).is_file()


def test_what_an_older_release_has_open_is_not_moved(bundle_dir):
    import fcntl

    with Store(bundle_dir) as store:
        store.delete(Selection(creator="Ann"), **BY)
    beside = older(bundle_dir)
    with (beside / "lock").open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(PreconditionError, match="a process of an older release"):
            Store(bundle_dir)
    assert list(beside.glob("*.log"))


def test_a_stranger_s_journal_beside_is_nobody_s_to_throw_away(bundle_dir, small_bundle_dir, tmp_path):
    from dataclasses import replace

    beside = older(bundle_dir)
    other = replace(Manifest.read(bundle_dir), version="other")
    begin(tmp_path, other)
    shutil.move(delta_path(tmp_path, other.bundle_id), beside)
    with pytest.raises(BundleError, match="holds changes, deletions perhaps, to another bundle"):
        Store(bundle_dir)
    assert len(list(beside.glob("*.log"))) == 2
