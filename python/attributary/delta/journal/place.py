"""Where a bundle's journal lies: inside it, `delta/<bundle id>.log`. A copy of the directory takes it along.

Releases before this one kept it in the folder `<bundle>.journal` beside the bundle; `adopt` moves it in.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from attributary.bundle.bundle import Bundle, check_delta, delta_path
from attributary.bundle.files import require_writable, sync, write_whole
from attributary.bundle.manifest import Manifest
from attributary.errors import BundleError, PreconditionError

from .log import Log, cannot, read
from .records import Added, Changes, Deleted, Opened, encode, replay

T = TypeVar("T")


def begin(directory: Path, manifest: Manifest, opened: Opened | None = None) -> None:
    """Write the journal of a bundle that has none; `opened` is the history that it begins with.

    Raises PreconditionError, OSError.
    """
    path = delta_path(directory, manifest.bundle_id)
    path.parent.mkdir(exist_ok=True)
    Log.create(path, [encode(opened or Opened.first(manifest))]).close()
    sync(directory)


def changes_of(bundle: Bundle) -> Changes | None:
    """Return what happened to a bundle since it was built; None if it has no journal. Reads only.

    A record that is being written, or was left unfinished by a crash, has not been acknowledged and is left out.
    Raises BundleError for a damaged journal, one of another bundle, or one that lies where an older release left it.
    """
    refuse_older_layout(bundle.directory)
    path = delta_path(bundle.directory, bundle.manifest.bundle_id)
    if not path.is_file():
        return None
    opened, records = replayed(path, bundle.manifest)
    return Changes.after(opened).take(*records)


def continued(directory: Path, manifest: Manifest) -> tuple[Log, Changes]:
    """Open a bundle's journal to go on with it, and say what it amounts to. Raises what `Log.open` and `replay` do."""
    path = delta_path(directory, manifest.bundle_id)
    log, payloads = Log.open(path)
    try:
        opened, records = replay(path, payloads, manifest)
    except BaseException:
        log.close()
        raise
    return log, Changes.after(opened).take(*records)


def check_replaceable(out: Path, force: bool) -> None:
    """Raise FileExistsError if a bundle may not be built in `out`; PreconditionError if changes would be forgotten.

    InvalidArgumentError where nothing can be written.
    """
    if out.exists() and not force:
        raise FileExistsError(f"{out} exists; choose another path or pass --force")
    require_writable(out)
    if not out.exists():
        return
    logs = [*out.glob("delta/*.log"), *out.glob("delta/held.journal"), *_beside(out).glob("*.log")]
    if any(opened.past or records for opened, records in map(replayed, logs)):
        raise PreconditionError(
            "bundle",
            f"{out} has been changed since it was built, and what was deleted would come back (`attributary bundle "
            f"log {out}` lists it); build elsewhere, make the changes again, then move the old one away",
        )


def steadily(directory: Path | str, opening: Callable[[], T]) -> T:
    """Open what lies in a directory; once more if a compaction has put another bundle there meanwhile."""
    while True:
        before = _identity(directory)
        try:
            opened = opening()
        except BundleError:
            if before == _identity(directory):
                raise
        else:
            if before == _identity(directory):
                return opened


def refuse_older_layout(directory: Path) -> None:
    """Raise BundleError if a journal lies beside the bundle."""
    beside = _beside(directory)
    if any(beside.glob("*.log")):
        raise BundleError(
            beside.name,
            "holds the bundle's changes as an older release kept them, and would be lost when the bundle is copied; "
            f"move them in with `attributary bundle adopt {directory}`",
        )


def adopt(directory: Path) -> None:
    """See to it that a bundle has a journal inside, and says so; the caller holds the writer's lock.

    A journal of an older release is moved in. Raises BundleError if that belongs to another bundle, PreconditionError
    if a process of an older release has it open or a file cannot be moved.
    """
    manifest = Manifest.read(directory)
    path, beside = delta_path(directory, manifest.bundle_id), _beside(directory)
    try:
        if any(beside.glob("*.log")) or (beside / "lock").is_file():
            _move_in(beside, path, manifest)
        if not path.is_file():
            check_delta(directory, manifest)
            begin(directory, manifest)
        if not manifest.delta:
            # It is no part of the bundle's id, so callers who name the bundle go on finding it.
            replace(manifest, delta=True).write(directory)
    except OSError as error:
        raise cannot(path, "be moved into the bundle", error) from error


def _move_in(beside: Path, path: Path, manifest: Manifest) -> None:
    lock = os.open(beside / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise PreconditionError(
                "bundle", f"a process of an older release has {beside} open; end it first"
            ) from None
        own = beside / path.name
        parent = replayed(own)[0].parent if own.is_file() else ""
        useless = []
        for other in sorted(set(beside.glob("*.log")) - {own}):
            # The journals of the bundle before, and of a compaction that did not get to its end, are of no use.
            if other.stem != parent and replayed(other)[0].parent != manifest.bundle_id:
                raise BundleError(
                    f"{beside.name}/{other.name}",
                    f"holds changes, deletions perhaps, to another bundle than {manifest.bundle_id}, which is in its "
                    f"place; make them again on this one (`attributary bundle log {other}` lists them), then move the "
                    "file away",
                )
            useless.append(other)
        for other in useless:
            other.unlink()
        if own.is_file():
            _take(own, path)
            own.unlink()
        (beside / "lock").unlink()
    finally:
        os.close(lock)
    with contextlib.suppress(OSError):
        # Somebody else's files are left alone.
        beside.rmdir()
        sync(beside.parent)


def _take(own: Path, path: Path) -> None:
    """Bring a journal inside; one that was begun there, by a move that a crash cut off, is gone on with."""
    there = own.read_bytes()[: read(own)[1].offset]
    here = path.read_bytes()[: read(path)[1].offset] if path.is_file() else b""
    if not there.startswith(here) and not here.startswith(there):
        raise BundleError(
            f"{own.parent.name}/{own.name}",
            f"and {path} tell two stories of the same bundle; `attributary bundle log` shows each: make the changes of "
            "the first again, then move that file away",
        )
    path.parent.mkdir(exist_ok=True)
    if len(there) > len(here):
        write_whole(path, there)
    sync(path.parent.parent)


def replayed(path: Path, manifest: Manifest | None = None) -> tuple[Opened, list[Added | Deleted]]:
    """Read a journal's file; raises what `read` and `replay` do."""
    return replay(path, read(path)[0], manifest)


def _beside(directory: Path | str) -> Path:
    directory = Path(directory).resolve()
    return directory.with_name(directory.name + ".journal")


def _identity(directory: Path | str) -> tuple[int, int] | None:
    try:
        found = Path(directory).stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
