"""The journal travels inside the bundle: copies keep every opt-out or do not open."""

import json
import shutil
import subprocess

import pytest

from attributary.attribution.open import open_engine, open_preparer
from attributary.bundle.bundle import Bundle
from attributary.bundle.manifest import MANIFEST, Manifest
from attributary.delta.journal.place import changes_of
from attributary.delta.selection import Selection
from attributary.delta.store import Store
from attributary.errors import BundleError

BY = {"who": "Kim", "why": "opted out"}
READERS = (open_engine, open_preparer, lambda place: changes_of(Bundle.open(place, verify=False)))


def creators(directory):
    snapshot = open_engine(directory).snapshot
    names = snapshot.bundle.items.creator_names
    return {names[code] for code, count in enumerate(snapshot.filters.creators) if count}


def without_journal(directory):
    """The same bundle as one that never had a journal."""
    shutil.rmtree(directory / "delta")
    raw = json.loads((directory / MANIFEST).read_text())
    del raw["delta"]
    (directory / MANIFEST).write_text(json.dumps(raw))


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


def test_a_bundle_that_has_no_journal_is_given_one_by_its_first_writer(bundle_dir):
    without_journal(bundle_dir)
    assert open_engine(bundle_dir).snapshot.revision == 0
    assert not Manifest.read(bundle_dir).delta
    with Store(bundle_dir) as store:
        assert store.snapshot.revision == 0
    assert Manifest.read(bundle_dir).delta
