"""Where a bundle's journal lies: in the folder `<bundle>.journal` beside it, one file a bundle id."""

from __future__ import annotations

from pathlib import Path

from attributary.bundle.bundle import Bundle
from attributary.errors import BundleError, PreconditionError

from .changes import Changes, fold, replay
from .log import read
from .records import Opened


def folder_of(directory: Path | str) -> Path:
    """The folder of journals of the bundle in `directory`."""
    directory = Path(directory).resolve()
    return directory.with_name(directory.name + ".journal")


def path_of(directory: Path | str, bundle_id: str) -> Path:
    """The journal of one bundle."""
    return folder_of(directory) / f"{bundle_id}.log"


def changes_of(bundle: Bundle) -> Changes | None:
    """Return what happened to a bundle since it was built, None if nothing did. Reads only.

    A record that is being written, or was left unfinished by a crash, has not been acknowledged and is left out.
    Raises BundleError for a damaged journal, and for one that belongs to another bundle in the same place.
    """
    bundle_id = bundle.manifest.bundle_id
    path = path_of(bundle.directory, bundle_id)
    if not path.is_file():
        refuse_strangers(bundle)
        return None
    opened, records = replay(path, read(path)[0])
    check_opened(path, opened, bundle)
    refuse_strangers(bundle, opened.parent)
    return fold(opened, records)


def history_of(bundle: Bundle, who: str) -> Changes | None:
    """Return what happened before a bundle was compacted, for `who` serves bundles only as they were made.

    Raises PreconditionError if the bundle has been changed since, BundleError as `changes_of` does.
    """
    changes = changes_of(bundle)
    path = path_of(bundle.directory, bundle.manifest.bundle_id)
    # The first record is history that the bundle already contains.
    if changes is not None and len(read(path)[0]) > 1:
        raise PreconditionError(
            "bundle",
            f"{bundle.directory} has changes in its journal, which {who} does not read; run `attributary bundle "
            "compact` first and use the bundle that it makes",
        )
    return changes


def strangers(bundle: Bundle) -> list[Path]:
    """Journals in the folder that are not this bundle's own."""
    own = path_of(bundle.directory, bundle.manifest.bundle_id)
    return sorted(path for path in folder_of(bundle.directory).glob("*.log") if path != own)


def refuse_strangers(bundle: Bundle, parent: str = "") -> None:
    """Raise BundleError if a journal lies here whose changes would be forgotten.

    Two are harmless: that of the bundle that this one was compacted from, and that of a compaction of this one that
    did not get to its end.
    """
    for path in strangers(bundle):
        if path.stem == parent or opened_of(path).parent == bundle.manifest.bundle_id:
            continue
        raise BundleError(
            f"{path.parent.name}/{path.name}",
            f"holds changes, deletions perhaps, to another bundle than {bundle.manifest.bundle_id}, which is in its "
            f"place; make them again on this one (`attributary bundle log {path}` lists them), then move the file away",
        )


def opened_of(path: Path) -> Opened:
    """The first record of a journal; raises BundleError."""
    return replay(path, read(path)[0][:1])[0]


def check_opened(path: Path, opened: Opened, bundle: Bundle) -> None:
    """Raise BundleError if a journal's first record does not name the bundle."""
    manifest = bundle.manifest
    found = (opened.bundle_id, opened.encoder, opened.dim)
    if found != (manifest.bundle_id, manifest.encoder.digest, manifest.encoder.dim):
        raise BundleError(
            f"{path.parent.name}/{path.name}", f"is the journal of bundle {opened.bundle_id}, not of this one"
        )
