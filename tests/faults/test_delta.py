"""kill -9 in the middle of `bundle add|delete|compact`, full disks, read-only places: nothing acknowledged is lost."""

import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from attributary.attribution.open import open_engine
from attributary.attribution.snapshot import Snapshot
from attributary.building import build_bundle
from attributary.bundle.bundle import Bundle
from attributary.bundle.manifest import Manifest
from attributary.delta.entry import CONTRIBUTOR
from attributary.delta.items import NewItem
from attributary.delta.journal.place import changes_of
from attributary.delta.store import Store
from attributary.errors import BundleError
from tests.support.delta_commands import Commands
from tests.unit.delta.test_layout import older

KILLED = -9
# Sent: kill points; admitted: items that were acknowledged or there before each.
KILLS = "kill -9 of a writer"
DELETE = ("delete", "--creator", "Bo", "--why", "opted out", "--who", "kim", "--json")
COMPACT = ("compact", "--why", "tidy", "--who", "kim", "--json")


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    commands = Commands(tmp_path_factory.mktemp("commands"))
    yield commands
    commands.close()


@pytest.fixture(scope="module")
def prepared(tiny, tiny_encoder_dir, tmp_path_factory, command):
    """A bundle of 40 items with a history, and a corpus of 130 more to add: three batches."""
    home = tmp_path_factory.mktemp("prepared")
    build_bundle(
        tiny.draw_corpus(home / "corpus", 40), tiny_encoder_dir, home / "bundle", probes=30, workers=1
    )
    more = tiny.draw_corpus(home / "more", 170)
    import pyarrow.parquet as pq

    table = pq.read_table(more / "items.parquet")
    pq.write_table(table.slice(40), more / "items.parquet")
    picture = more / "pictures" / "3.png"
    add = ("--picture", picture, "--caption", "a cat", "--creator", "Bo", "--why", "first")
    assert command(home / "bundle", "add", *add, "--id", 5)[0] == 0
    assert command(home / "bundle", "delete", "--id", 1003, "--why", "first")[0] == 0
    return home


@pytest.fixture
def place(prepared, tmp_path):
    """Function: a fresh copy of the prepared bundle, as `cp -r` makes it."""
    number = 0

    def copy(home=tmp_path):
        nonlocal number
        number += 1
        target = home / f"{number}" / "bundle"
        return shutil.copytree(prepared / "bundle", target)

    return copy


def delta_of(directory):
    return directory / "delta"


def living(directory):
    """Ids that are there, as a reader finds them, and the audit."""
    bundle = Bundle.open(directory)
    changes = changes_of(bundle)
    snapshot = Snapshot.of(bundle, None)
    rows = range(len(bundle.items)) if snapshot.alive is None else snapshot.alive.nonzero()[0].tolist()
    ids = {bundle.items.id_of(row) for row in rows} | {item.id for item in changes.added}
    audit = [(entry.kind, entry.who, entry.why, entry.ids) for entry in changes.entries]
    return ids - set(changes.deleted), audit


def after_restart(directory):
    """The same, by a reader, by the next writer, and once more by a reader: repairs change nothing."""
    if directory.exists():
        seen = living(directory)
    with Store(directory) as store:
        bundle, snapshot = store.snapshot.bundle, store.snapshot
        rows = range(len(bundle.items)) if snapshot.alive is None else snapshot.alive.nonzero()[0].tolist()
        found = {bundle.items.id_of(row) for row in rows}
    again = living(directory)
    if directory.exists() and "seen" in locals():
        assert seen == again
    assert found == again[0]
    assert open_engine(directory).snapshot.item_count == len(found)
    leftovers = {path.name for path in directory.parent.iterdir()} - {"bundle", "out"}
    assert not leftovers
    assert len(list(delta_of(directory).glob("*.log"))) == 1
    return again


def points_of(command, place, *given):
    status, points, said = command(place(), *given)
    assert status == 0, said
    return points


def some(points, wanted):
    return (
        range(1, points + 1)
        if points <= wanted
        else sorted(random.Random(7).sample(range(1, points + 1), wanted))
    )


def killed_additions(command, place, prepared, tally, wanted):
    given = ("add", "--corpus", prepared / "more", "--why", "more", "--who", "kim", "--json")
    before, audit = living(place())
    new = [*range(1040, 1170)]
    possible = [set(new[:count]) for count in (0, 64, 128, 130)]
    for point in some(points_of(command, place, *given), wanted):
        directory = place()
        status, _, said = command(directory, *given, point=point)
        assert status == KILLED
        acknowledged = {json.loads(line)["added"] for line in said.splitlines() if line.endswith("}")}
        found, told = after_restart(directory)
        added = found - before
        assert found >= before
        assert added in possible
        tally(KILLS, sent=1, admitted=len(acknowledged), lost=len(acknowledged - added))
        # All that was acknowledged, and at most the batch that was under way.
        assert acknowledged <= added
        assert len(added) <= 64 * -(-len(acknowledged) // 64) + 64
        assert told[: len(audit)] == audit
        assert [len(line[3]) for line in told[len(audit) :]] == [64, 64, 2][: possible.index(added)]


def killed_deletions(command, place, tally, wanted):
    before, audit = living(place())
    gone = {5, *range(1001, 1040, 4)}
    for point in some(points_of(command, place, *DELETE), wanted):
        directory = place()
        status, _, said = command(directory, *DELETE, point=point)
        assert status == KILLED
        found, told = after_restart(directory)
        tally(KILLS, sent=1, admitted=bool(said), lost=bool(said and found & gone))
        assert found in ([before - gone] if said else [before, before - gone])
        assert (len(told) > len(audit)) == (found != before)


def killed_compactions(command, place, tally, wanted, *more):
    before, audit = living(place())
    old = Bundle.open(place()).manifest.bundle_id
    for point in some(points_of(command, place, *COMPACT, *more), wanted):
        directory = place()
        status, _, said = command(directory, *COMPACT, *more, point=point)
        assert status == KILLED
        found, told = after_restart(directory)
        tally(KILLS, sent=1, admitted=len(before), lost=len(before - found))
        assert found == before
        compacted = Bundle.open(directory).manifest.bundle_id != old
        assert compacted or not said
        assert told == audit + ([("compact", "kim", "tidy", ())] if compacted else [])
        if point % 4:
            continue
        # And life goes on.
        assert command(directory, *DELETE)[0] == 0
        assert command(directory, *COMPACT)[0] == 0
        assert after_restart(directory)[0] == before - {5, *range(1001, 1040, 4)}


def killed_decisions(command, place, prepared, tally, wanted):
    """An item that waits is released, or goes on waiting."""
    before, audit = living(place())
    item = NewItem(77, (prepared / "more" / "pictures" / "45.png").read_bytes(), "a hat", "Somebody New")

    def waiting():
        directory = place()
        with Store(directory) as store:
            assert any(store.add([item], who="c", why="mine", terms=CONTRIBUTOR).held)
        return directory

    decision = ("held", "--release", 77, "--why", "known by now", "--who", "kim")
    status, points, said = command(waiting(), *decision)
    assert (status, "released 1 items" in said) == (0, True), said
    for point in some(points, wanted):
        directory = waiting()
        status, _, said = command(directory, *decision, point=point)
        assert status == KILLED
        found, told = after_restart(directory)
        tally(KILLS, sent=1, admitted=bool(said), lost=bool(said and 77 not in found))
        assert found in ([before | {77}] if said else [before, before | {77}])
        assert told[: len(audit)] == audit
        with Store(directory) as store:
            assert [record.items[0].id for record in store.held] == ([] if 77 in found else [77])


def killed_adoptions(command, place, tally, wanted):
    """The journal of an older release is moved into the bundle; before and after nothing else is different."""
    before = living(place())

    def aged():
        directory = place()
        older(directory)
        return directory

    status, points, said = command(aged(), "adopt")
    assert (status, "has its journal inside" in said) == (0, True), said
    for point in some(points, wanted):
        directory = aged()
        assert command(directory, "adopt", point=point)[0] == KILLED
        # A reader opens all of it or says what to do.
        with contextlib.suppress(BundleError):
            assert living(directory) == before
        with Store(directory):
            pass
        beside = directory.with_name("bundle.journal")
        if beside.exists():
            # Killed before its very last step.
            beside.rmdir()
        found, told = after_restart(directory)
        tally(KILLS, sent=1, admitted=len(before[0]), lost=len(before[0] - found))
        assert (found, told) == before
        assert Manifest.read(directory).delta


def test_killed_adoptions(command, place, tally):
    killed_adoptions(command, place, tally, 30)


def test_killed_additions(command, place, prepared, tally):
    killed_additions(command, place, prepared, tally, 20)


def test_killed_deletions(command, place, tally):
    killed_deletions(command, place, tally, 20)


def test_killed_compactions(command, place, tally):
    killed_compactions(command, place, tally, 20)


def test_killed_decisions(command, place, prepared, tally):
    killed_decisions(command, place, prepared, tally, 3)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_killed_at_every_point(command, place, prepared, tally):
    killed_additions(command, place, prepared, tally, 10**6)
    killed_deletions(command, place, tally, 10**6)
    killed_compactions(command, place, tally, 10**6)
    killed_compactions(command, place, tally, 10**6, "--erase")
    killed_decisions(command, place, prepared, tally, 10**6)


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("times", [4, pytest.param(30, marks=pytest.mark.slow)])
def test_killed_at_random_times(prepared, place, tally, times):
    """Also inside libraries that write by themselves: whole processes, killed by the clock."""
    rng = random.Random(times)
    for _ in range(times):
        directory = place()
        before, _ = living(directory)
        command = [
            sys.executable,
            "-m",
            "attributary.cli.main",
            "bundle",
            "compact",
            str(directory),
            "--why",
            "x",
        ]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        # From the moment that it has the lock on.
        lock = delta_of(directory) / "lock"
        stamp = lock.stat().st_mtime_ns
        while process.poll() is None and lock.stat().st_mtime_ns == stamp:
            pass
        time.sleep(rng.uniform(0, 0.15))
        process.kill()
        process.wait()
        found, _ = after_restart(directory)
        tally(KILLS, sent=1, admitted=len(before), lost=len(before - found))
        assert found == before


def test_a_file_that_may_not_grow(command, place, prepared):
    """The operating system refuses a write in the middle of a record."""
    directory = place()
    before, audit = living(directory)
    journal = next(delta_of(directory).glob("*.log"))
    given = ("add", "--corpus", prepared / "more", "--why", "more", "--json")
    status, _, said = command(directory, *given, fsize=journal.stat().st_size + 80_000)
    assert status == 2
    assert "cannot be written: File too large" in said
    acknowledged = {json.loads(line)["added"] for line in said.splitlines() if line.startswith("{")}
    found, told = after_restart(directory)
    assert found - before == acknowledged
    assert len(acknowledged) == 64
    assert len(told) == len(audit) + 1


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 600 KB."""
    target = tmp_path / "disk"
    target.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=600k", "none", str(target)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a small file system")
    yield target
    subprocess.run(["umount", str(target)], check=True)


def test_a_full_disk(command, place, prepared, small_disk):
    directory = place(small_disk)
    before, _ = living(directory)
    room = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize
    (small_disk / "filler").write_bytes(bytes(max(0, room - 36 * 1024)))
    given = ("add", "--corpus", prepared / "more", "--why", "more", "--json")
    status, _, said = command(directory, *given)
    assert (status, "No space left on device" in said) == (2, True)
    acknowledged = {json.loads(line)["added"] for line in said.splitlines() if line.startswith("{")}
    assert living(directory)[0] == before | acknowledged
    status, _, said = command(directory, *COMPACT)
    assert (status, "cannot be compacted" in said, "No space left" in said) == (2, True, True), said
    assert living(directory)[0] == before | acknowledged
    for kilobytes in range(80, 481, 50):
        # Less and less room is missing: each file of the new bundle is the first that does not fit, once.
        room = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize
        filler = small_disk / "filler"
        os.truncate(filler, max(0, filler.stat().st_size + room - kilobytes * 1024))
        status, _, said = command(directory, *COMPACT)
        assert living(directory)[0] == before | acknowledged
        if status == 0:
            break
        assert (status, "Traceback" in said) == (2, False), said
        assert "cannot be" in said
    assert kilobytes > 80
    filler.unlink()
    assert command(directory, *DELETE)[0] == 0
    assert command(directory, *COMPACT)[0] == 0
    assert after_restart(directory)[0] == (before | acknowledged) - {
        5, *(number for number in (before | acknowledged) if number % 4 == 1 and number > 1000)
    }  # fmt: skip


@pytest.mark.parametrize("verb", ["add", "delete", "compact"])
def test_a_read_only_place(command, place, prepared, verb):
    with tempfile.TemporaryDirectory() as home:
        Path(home).chmod(0o755)
        directory = place(Path(home))
        said_to = Path(home) / "out"
        said_to.touch()
        said_to.chmod(0o666)
        before = living(directory)
        parts = (directory.parent, directory, delta_of(directory), *delta_of(directory).iterdir())
        for part in parts:
            part.chmod(0o555 if part.is_dir() else 0o444)
        picture = Path(home) / "picture.png"
        shutil.copyfile(prepared / "more" / "pictures" / "3.png", picture)
        given = {
            "add": ("add", "--picture", picture, "--id", 9, "--caption", "c", "--creator", "c", "--why", "x"),
            "delete": DELETE,
            "compact": COMPACT,
        }[verb]
        # Root is held back by no permission.
        uid = 65534 if os.getuid() == 0 else 0
        status, _, said = command(directory, *given, out=said_to, uid=uid)
        assert status == 2, said
        assert "delta/lock: cannot be made: Permission denied" in said
        assert "Traceback" not in said
        for part in parts:
            part.chmod(0o755)
        assert living(directory) == before
