"""Items that wait for the operator: accepted, durable and not searched, in a log beside the bundle's journal.

delta/held.journal   its records are those of the journal: one "add" for each item, a "delete" for what went
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from attributary.bundle.bundle import DELTA
from attributary.bundle.manifest import Manifest

from .journal.log import Log, read
from .journal.place import check_opened
from .journal.records import Added, Deleted, Opened, encode, replay

_NAME = "held.journal"


class Held:
    """The items that wait. The caller holds the writer's mutex; close it."""

    def __init__(self, directory: Path, manifest: Manifest) -> None:
        """Read what waits in a bundle's directory; raises BundleError, PreconditionError."""
        self._path = held_path(directory)
        self._manifest = manifest
        self._log: Log | None = None
        self._items: dict[int, Added] = {}
        if self._path.is_file():
            self._log, payloads = Log.open(self._path)
            self._items = _folded(self._path, payloads, manifest)

    @property
    def items(self) -> Mapping[int, Added]:
        """What waits, by id, oldest first; each record has one item."""
        return self._items

    def put(self, records: Iterable[Added]) -> None:
        """Keep items; durable on return."""
        for record in records:
            self._open().append(encode(record))
            self._items[record.items[0].id] = record

    def drop(self, deleted: Deleted) -> None:
        """Forget items; durable on return."""
        gone = [number for number in deleted.ids if number in self._items]
        if gone:
            self._open().append(encode(deleted))
            for number in gone:
                del self._items[number]

    def move(self, directory: Path, manifest: Manifest) -> Held:
        """What waits, in the log of another bundle, which has none: that of a compaction. Nothing refused is left."""
        other = Held(directory, manifest)
        if self._items:
            other._log = Log.create(
                other._path, [encode(_opened(manifest)), *map(encode, self._items.values())]
            )
            other._items = dict(self._items)
        return other

    def close(self) -> None:
        """Close the file."""
        if self._log is not None:
            self._log.close()
            self._log = None

    def _open(self) -> Log:
        if self._log is None:
            self._log = Log.create(self._path, [encode(_opened(self._manifest))])
        return self._log


def held_path(directory: Path) -> Path:
    """Where the log of a bundle's held items lies."""
    return directory / DELTA / _NAME


def held_in(directory: Path, manifest: Manifest) -> dict[int, Added]:
    """The items that wait, by id; reads only. Raises BundleError."""
    path = held_path(directory)
    return _folded(path, read(path)[0], manifest) if path.is_file() else {}


def _folded(path: Path, payloads: list[bytes], manifest: Manifest) -> dict[int, Added]:
    opened, records = replay(path, payloads)
    check_opened(path, opened, manifest)
    items: dict[int, Added] = {}
    for record in records:
        if isinstance(record, Added):
            items[record.items[0].id] = record
        else:
            for number in record.ids:
                items.pop(number, None)
    return items


def _opened(manifest: Manifest) -> Opened:
    return Opened(manifest.bundle_id, "", manifest.encoder.digest, manifest.encoder.dim, 0, ())
