"""Opening what a writer needs of a bundle: its snapshot, its journal to go on with, its embedder."""

from __future__ import annotations

from pathlib import Path

from attributary.attribution.engine import Engine
from attributary.attribution.snapshot import Snapshot
from attributary.attribution.types import Limits
from attributary.bundle.bundle import Bundle, delta_path
from attributary.bundle.manifest import Manifest

from .items import Embedder
from .journal.log import Log
from .journal.place import changes_of, check_opened
from .journal.records import Changes, fold, replay


def snapshot_of(directory: Path) -> Snapshot:
    """The bundle in a directory with its changes. Raises BundleError."""
    bundle = Bundle.open(directory)
    snapshot = Snapshot.of(bundle, None)
    changes = changes_of(bundle)
    return snapshot if changes is None else snapshot.apply(changes)


def continued(directory: Path, manifest: Manifest) -> tuple[Log, Changes]:
    """Open a bundle's journal to go on with it, and say what it amounts to."""
    path = delta_path(directory, manifest.bundle_id)
    log, payloads = Log.open(path)
    try:
        opened, records = replay(path, payloads)
        check_opened(path, opened, manifest)
    except BaseException:
        log.close()
        raise
    return log, fold(Changes.after(opened), records)


def embedder_of(snapshot: Snapshot, engine: Engine | None) -> Embedder:
    """What places new items: with the engine's encoder if that made the vectors."""
    if engine is None:
        return Embedder(snapshot.bundle, Limits())
    return Embedder(snapshot.bundle, engine.limits, engine.encoder)
