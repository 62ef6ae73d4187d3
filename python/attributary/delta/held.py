"""Items that wait for the operator: accepted, durable and not searched, in a log beside the bundle's journal.

delta/held.journal   its records are those of the journal: one "add" for each item, a "delete" for what went
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from attributary.bundle.bundle import DELTA
from attributary.bundle.manifest import Manifest

from .journal.log import Log
from .journal.place import replayed
from .journal.records import Added, Deleted, Opened, encode, replay

_NAME = "held.journal"


class Held:
    """The items that wait. The caller holds the writer's mutex; close it."""

    def __init__(self, directory: Path, manifest: Manifest) -> None:
        """Read what waits in a bundle's directory; raises BundleError, PreconditionError."""
        self._path = directory / DELTA / _NAME
        self._manifest = manifest
        self._log: Log | None = None
        self._items: dict[int, Added] = {}
        if self._path.is_file():
            self._log, payloads = Log.open(self._path)
            self._items = _waiting(replay(self._path, payloads, manifest)[1])

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
            waiting = map(encode, self._items.values())
            other._log = Log.create(other._path, [encode(Opened.first(manifest)), *waiting])
            other._items = dict(self._items)
        return other

    def close(self) -> None:
        """Close the file."""
        if self._log is not None:
            self._log.close()
            self._log = None

    def _open(self) -> Log:
        if self._log is None:
            self._log = Log.create(self._path, [encode(Opened.first(self._manifest))])
        return self._log


def held_in(directory: Path, manifest: Manifest) -> dict[int, Added]:
    """The items that wait, by id; reads only. Raises BundleError."""
    path = directory / DELTA / _NAME
    return _waiting(replayed(path, manifest)[1]) if path.is_file() else {}


def _waiting(records: Iterable[Added | Deleted]) -> dict[int, Added]:
    items: dict[int, Added] = {}
    for record in records:
        if isinstance(record, Added):
            items[record.items[0].id] = record
        else:
            for number in record.ids:
                items.pop(number, None)
    return items
