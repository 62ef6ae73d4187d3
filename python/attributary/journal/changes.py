"""From records to what they amount to: items added, ids deleted, and the audit of both."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from attributary.bundle.items import ItemRecord

from .log import DamageError
from .records import Added, Deleted, Entry, Opened, Record, UnreadableError, decode


@dataclass(frozen=True, slots=True)
class Former:
    """Names that were deleted by name, in whatever bundle that was."""

    creators: frozenset[str] = frozenset()
    licences: frozenset[str] = frozenset()

    def __or__(self, other: Former) -> Former:
        return Former(self.creators | other.creators, self.licences | other.licences)


NOBODY = Former()


@dataclass(slots=True)
class Changes:
    """What a run of records amounts to. Ids are never used twice, so additions and deletions can be told apart."""

    revision: int  # of the last record
    dim: int
    added: list[ItemRecord] = field(default_factory=list)
    deleted: dict[int, str] = field(default_factory=dict)  # id -> when; also those of earlier bundles
    entries: list[Entry] = field(default_factory=list)
    _vectors: list[NDArray[np.float16]] = field(default_factory=list)

    @classmethod
    def after(cls, opened: Opened) -> Changes:
        """What the first record says: the history that came before it."""
        changes = cls(opened.revision, opened.dim, entries=list(opened.past))
        for entry in opened.past:
            if entry.kind == "delete":
                changes.deleted.update(dict.fromkeys(entry.ids, entry.at))
        return changes

    @property
    def vectors(self) -> NDArray[np.float16]:
        """Vectors of the added items, fp16 [n, D]."""
        return np.concatenate([np.empty((0, self.dim), np.float16), *self._vectors])

    @property
    def former_names(self) -> Former:
        """Creators and licences whose items were deleted by that name."""
        deleted = [entry.what for entry in self.entries if entry.kind == "delete"]
        return Former(
            frozenset(what.removeprefix("creator=") for what in deleted if what.startswith("creator=")),
            frozenset(what.removeprefix("licence=") for what in deleted if what.startswith("licence=")),
        )

    def take(self, record: Added | Deleted) -> None:
        """Count one more record in."""
        self.revision += 1
        if isinstance(record, Added):
            self.added += record.items
            self._vectors.append(record.vectors)
            kind, what, ids = "add", "", tuple(item.id for item in record.items)
        else:
            self.deleted.update(dict.fromkeys(record.ids, record.at))
            kind, what, ids = "delete", record.what, record.ids
        self.entries.append(Entry(self.revision, kind, record.at, record.who, record.why, what, ids))


def replay(path: Path, payloads: Iterable[bytes]) -> tuple[Opened, list[Added | Deleted]]:
    """Return a journal's first record and those after it; raises DamageError."""
    opened: Opened | None = None
    rest: list[Added | Deleted] = []
    for number, payload in enumerate(payloads):
        try:
            record: Record = decode(payload, 0 if opened is None else opened.dim)
        except UnreadableError as error:
            raise DamageError(path, 0, f"record {number} cannot be understood ({error})") from error
        if isinstance(record, Opened) != (opened is None):
            raise DamageError(path, 0, f"record {number} is out of place")
        if isinstance(record, Opened):
            opened = record
        else:
            rest.append(record)
    assert opened is not None
    return opened, rest


def fold(opened: Opened, records: Iterable[Added | Deleted]) -> Changes:
    """Return what a whole journal amounts to."""
    changes = Changes.after(opened)
    for record in records:
        changes.take(record)
    return changes
