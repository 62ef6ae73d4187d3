"""Where a bundle's journal lies: inside it, `delta/<bundle id>.log`. A copy of the directory takes it along."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from attributary.bundle.bundle import Bundle, check_delta, delta_path
from attributary.bundle.files import sync
from attributary.bundle.manifest import Manifest
from attributary.errors import BundleError, PreconditionError

from .log import Log, cannot, read
from .records import Changes, Opened, encode, fold, replay

T = TypeVar("T")


def begin(directory: Path, manifest: Manifest, opened: Opened | None = None) -> None:
    """Write the journal of a bundle that has none; `opened` is the history that it begins with.

    Raises PreconditionError, OSError.
    """
    entry = manifest.encoder
    opened = opened or Opened(manifest.bundle_id, "", entry.digest, entry.dim, 0, ())
    path = delta_path(directory, manifest.bundle_id)
    path.parent.mkdir(exist_ok=True)
    Log.create(path, [encode(opened)]).close()
    sync(directory)


def changes_of(bundle: Bundle) -> Changes | None:
    """Return what happened to a bundle since it was built; None if it has no journal. Reads only.

    A record that is being written, or was left unfinished by a crash, has not been acknowledged and is left out.
    Raises BundleError for a damaged journal and for one of another bundle.
    """
    path = delta_path(bundle.directory, bundle.manifest.bundle_id)
    if not path.is_file():
        return None
    opened, records = replay(path, read(path)[0])
    check_opened(path, opened, bundle.manifest)
    return fold(Changes.after(opened), records)


def check_opened(path: Path, opened: Opened, manifest: Manifest) -> None:
    """Raise BundleError if a journal's first record does not name the bundle."""
    found = (opened.bundle_id, opened.encoder, opened.dim)
    if found != (manifest.bundle_id, manifest.encoder.digest, manifest.encoder.dim):
        raise BundleError(
            f"{path.parent.name}/{path.name}", f"is the journal of bundle {opened.bundle_id}, not of this one"
        )


def check_replaceable(out: Path, force: bool) -> None:
    """Raise FileExistsError if a bundle may not be built in `out`; PreconditionError if changes would be forgotten."""
    if not out.exists():
        return
    if not force:
        raise FileExistsError(f"{out} exists; choose another path or pass --force")
    logs = [*out.glob("delta/*.log"), *out.glob("delta/held.journal")]
    if any(
        fold(Changes.after(opened), records).entries
        for opened, records in (replay(log, read(log)[0]) for log in logs)
    ):
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


def ensure(directory: Path) -> None:
    """See to it that a bundle has a journal, and says so; the caller holds the writer's lock.

    Raises BundleError if the journal is lost, PreconditionError if none can be written.
    """
    manifest = Manifest.read(directory)
    path = delta_path(directory, manifest.bundle_id)
    try:
        if not path.is_file():
            check_delta(directory, manifest)
            begin(directory, manifest)
        if not manifest.delta:
            # It is no part of the bundle's id, so callers who name the bundle go on finding it.
            replace(manifest, delta=True).write(directory)
    except OSError as error:
        raise cannot(path, "be written", error) from error


def _identity(directory: Path | str) -> tuple[int, int] | None:
    try:
        found = Path(directory).stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
