"""Items that wait for the operator: accepted, durable and not searched, in a log beside the bundle's journal.

delta/held.journal   its records are those of the journal: one "add" for each item, a "delete" for what went;
                     after a compaction a "delete" that says "came", with who sent it and when, for what went before
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from attributary.bundle.bundle import DELTA
from attributary.bundle.manifest import Manifest

from .journal.log import Log
from .journal.place import replayed
from .journal.records import Added, Deleted, Opened, encode, replay

_NAME = "held.journal"
_CAME: Final = "came"
# As long as a contributor's limit looks back.
DAY: Final = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Came:
    """An item that was held at some time, also one that was released, refused or deleted since."""

    id: int
    who: str  # sent it
    at: str  # ISO 8601, UTC


class Held:
    """The items that wait. The caller holds the writer's mutex; close it."""

    def __init__(self, directory: Path, manifest: Manifest) -> None:
        """Read what waits in a bundle's directory; raises BundleError, PreconditionError."""
        self._path = directory / DELTA / _NAME
        self._manifest = manifest
        self._log: Log | None = None
        self._items: dict[int, Added] = {}
        self._came: list[Came] = []
        if self._path.is_file():
            self._log, payloads = Log.open(self._path)
            records = replay(self._path, payloads, manifest)[1]
            self._items, self._came = _waiting(records), _came(records)

    @property
    def items(self) -> Mapping[int, Added]:
        """What waits, by id, oldest first; each record has one item."""
        return self._items

    @property
    def came(self) -> Sequence[Came]:
        """What was held in the last day at least, one an item; what waits is among it."""
        return self._came

    def put(self, records: Iterable[Added]) -> None:
        """Keep items; durable on return."""
        for record in records:
            self._open().append(encode(record))
            self._items[record.items[0].id] = record
            self._came += _came([record])

    def drop(self, deleted: Deleted) -> None:
        """Forget items; durable on return."""
        gone = [number for number in deleted.ids if number in self._items]
        if gone:
            self._open().append(encode(deleted))
            for number in gone:
                del self._items[number]

    def move(self, directory: Path, manifest: Manifest) -> Held:
        """What waits, in the log of another bundle, which has none: that of a compaction.

        Of what was refused nothing is left but who sent it, and when, for a day: it counts for their limit.
        """
        other = Held(directory, manifest)
        since, waiting = datetime.now(UTC) - DAY, list(self._items.values())
        went = [
            Deleted(one.at, one.who, "", _CAME, (one.id,))
            for one in (Counter(self._came) - Counter(_came(waiting))).elements()
            if datetime.fromisoformat(one.at) > since
        ]
        if went or waiting:
            # What waits comes last: the id of one that was refused may be used again.
            records: list[Added | Deleted] = [*went, *waiting]
            other._log = Log.create(other._path, [encode(Opened.first(manifest)), *map(encode, records)])
            other._items, other._came = dict(self._items), _came(records)
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


def _came(records: Iterable[Added | Deleted]) -> list[Came]:
    return [
        Came(number, record.who, record.at)
        for record in records
        for number in ([item.id for item in record.items] if isinstance(record, Added) else record.ids)
        if isinstance(record, Added) or record.what == _CAME
    ]
