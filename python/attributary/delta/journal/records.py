"""What a journal's records say, their bytes, and what they amount to.

The bytes of a record: length of a JSON object, the object, then vectors in fp16, then looks in int8
(`attributary.pictures.looks`).
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from attributary.bundle.items import LOOK, ItemRecord
from attributary.bundle.manifest import Manifest
from attributary.bundle.names import same_name
from attributary.errors import BundleError

from .log import DamageError

FORMAT: Final = 1
_LENGTH = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the audit: who changed what, when and why. Holds no caption and no vector."""

    revision: int
    kind: str  # "add", "delete" or "compact"
    at: str  # ISO 8601, UTC
    who: str
    why: str
    what: str  # "creator=Ada", "bring_back=17"; empty where the ids say it
    ids: tuple[int, ...]

    def fields(self) -> dict[str, Any]:
        """As JSON takes it."""
        return asdict(self) | {"ids": list(self.ids)}


@dataclass(frozen=True, slots=True)
class Former:
    """Names that have no item left, here or in an earlier bundle: requests may go on naming them."""

    creators: frozenset[str] = frozenset()
    licences: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        for name in ("creators", "licences"):
            object.__setattr__(self, name, frozenset(map(same_name, getattr(self, name))))

    def __or__(self, other: Former) -> Former:
        return Former(self.creators | other.creators, self.licences | other.licences)

    def fields(self) -> dict[str, list[str]]:
        """As JSON takes it."""
        return {"creators": sorted(self.creators), "licences": sorted(self.licences)}


NOBODY = Former()


@dataclass(frozen=True, slots=True)
class Opened:
    """The first record: which bundle the journal belongs to, and what was already history when it began."""

    bundle_id: str
    parent: str  # the bundle that this one was compacted from; empty for one that was built
    encoder: str  # digest
    dim: int
    revision: int
    past: tuple[Entry, ...]
    former: Former = NOBODY

    @classmethod
    def first(cls, manifest: Manifest) -> Opened:
        """Of a bundle that has no history yet."""
        return cls(manifest.bundle_id, "", manifest.encoder.digest, manifest.encoder.dim, 0, ())


@dataclass(frozen=True, slots=True)
class Added:
    """Items that were added together, and their vectors, fp16 [n, D]."""

    at: str
    who: str
    why: str
    items: tuple[ItemRecord, ...]
    vectors: NDArray[np.float16]
    looks: NDArray[np.int8] | None = None  # [n, *LOOK]; None in journals from before they were kept
    held: str = ""  # in the log of held items: why they wait
    like: int | None = None  # there: the item that they look like
    back: tuple[int, ...] = ()  # those that have the picture of a deleted item, and were let in all the same


@dataclass(frozen=True, slots=True)
class Deleted:
    """Items that were deleted together: those that `what` chose at that time."""

    at: str
    who: str
    why: str
    what: str
    ids: tuple[int, ...]


Record: TypeAlias = Opened | Added | Deleted


class UnreadableError(ValueError):
    """A record that is sound but says nothing that this release understands."""


def encode(record: Record) -> bytes:
    """Return the payload of a record."""
    vectors = b""
    if isinstance(record, Opened):
        fields: dict[str, Any] = {"kind": "open", "format": FORMAT, **asdict(record)}
        fields["former"] = record.former.fields()
    else:
        fields = {"at": record.at, "who": record.who, "why": record.why}
        if isinstance(record, Added):
            fields |= {"kind": "add", "items": [item.fields() for item in record.items]}
            vectors = np.ascontiguousarray(record.vectors, "<f2").tobytes()
            if record.looks is not None:
                fields["looks"] = list(LOOK)
                vectors += np.ascontiguousarray(record.looks, np.int8).tobytes()
            if record.held:
                fields |= {"held": record.held, "like": record.like}
            if record.back:
                fields["back"] = list(record.back)
        else:
            fields |= {"kind": "delete", "what": record.what, "ids": list(record.ids)}
    text = json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode()
    return _LENGTH.pack(len(text)) + text + vectors


def decode(payload: bytes, dim: int) -> Record:
    """Return what a payload says; `dim` is that of the journal's bundle. Raises UnreadableError."""
    try:
        (length,) = _LENGTH.unpack_from(payload)
        fields = json.loads(payload[_LENGTH.size : _LENGTH.size + length])
        if not isinstance(fields, dict):
            raise UnreadableError("is no object")
        kind = fields.pop("kind")
        if kind == "add":
            items = tuple(ItemRecord(**item) for item in fields.pop("items"))
            behind = payload[_LENGTH.size + length :]
            size = 2 * len(items) * dim
            shape = fields.pop("looks", None)
            vectors = np.frombuffer(behind if shape is None else behind[:size], "<f2").astype(np.float16)
            looks = None
            if shape is not None:
                looks = np.frombuffer(behind[size:], np.int8).reshape(len(items), *LOOK)
            back = tuple(fields.pop("back", ()))
            return Added(
                **fields, back=back, items=items, vectors=vectors.reshape(len(items), dim), looks=looks
            )
        if kind == "delete":
            return Deleted(**fields | {"ids": tuple(fields["ids"])})
        if kind == "open":
            return _opened(fields)
    except (struct.error, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UnreadableError(str(error)) from error
    raise UnreadableError(f"unknown kind {kind!r}")


def left_by_name(entries: Iterable[Entry], kind: str = "creator") -> frozenset[str]:
    """Creators, or licences, whose items were deleted by name, as `same_name` spells them."""
    said = (entry.what.partition("=") for entry in entries if entry.kind == "delete")
    return frozenset(same_name(name) for found, _, name in said if found == kind)


@dataclass(slots=True)
class Changes:
    """What a run of records amounts to. Ids are never used twice, so additions and deletions can be told apart."""

    revision: int  # of the last record
    dim: int
    added: list[ItemRecord] = field(default_factory=list)
    deleted: dict[int, str] = field(default_factory=dict)  # id -> when; also those of earlier bundles
    entries: list[Entry] = field(default_factory=list)
    former: Former = NOBODY  # of earlier bundles
    _vectors: list[NDArray[np.float16]] = field(default_factory=list)
    _looks: list[NDArray[np.int8]] = field(default_factory=list)

    @classmethod
    def after(cls, opened: Opened) -> Changes:
        """What the first record says: the history that came before it."""
        changes = cls(opened.revision, opened.dim, entries=list(opened.past), former=opened.former)
        for entry in opened.past:
            if entry.kind == "delete":
                changes.deleted.update(dict.fromkeys(entry.ids, entry.at))
        return changes

    @property
    def vectors(self) -> NDArray[np.float16]:
        """Vectors of the added items, fp16 [n, D]."""
        return np.concatenate([np.empty((0, self.dim), np.float16), *self._vectors])

    @property
    def looks(self) -> NDArray[np.int8]:
        """What the added items look like, int8 [n, *LOOK]; zeros where that was not kept."""
        return np.concatenate([np.empty((0, *LOOK), np.int8), *self._looks])

    @property
    def former_names(self) -> Former:
        """Creators and licences that are known although they may have no item any more."""
        return self.former | Former(*(left_by_name(self.entries, kind) for kind in ("creator", "licence")))

    def take(self, *records: Added | Deleted) -> Changes:
        """Count records in; return what they amount to then, which is this."""
        for record in records:
            self._take(record)
        return self

    def _take(self, record: Added | Deleted) -> None:
        self.revision += 1
        if isinstance(record, Added):
            self.added += record.items
            self._vectors.append(record.vectors)
            unknown = np.zeros((len(record.items), *LOOK), np.int8)
            self._looks.append(unknown if record.looks is None else record.looks)
            kind, ids = "add", tuple(item.id for item in record.items)
            what = f"bring_back={','.join(map(str, record.back))}" if record.back else ""
        else:
            self.deleted.update(dict.fromkeys(record.ids, record.at))
            kind, what, ids = "delete", record.what, record.ids
        self.entries.append(Entry(self.revision, kind, record.at, record.who, record.why, what, ids))


def replay(
    path: Path, payloads: Iterable[bytes], manifest: Manifest | None = None, opened: Opened | None = None
) -> tuple[Opened, list[Added | Deleted]]:
    """Return a journal's first record and those after it; `opened` is the first where it was read before.

    Raises DamageError, and BundleError if the first record does not name the bundle of `manifest`.
    """
    rest: list[Added | Deleted] = []
    for payload in payloads:
        try:
            record: Record = decode(payload, 0 if opened is None else opened.dim)
        except UnreadableError as error:
            raise DamageError(path, f"a record cannot be understood ({error})") from error
        if isinstance(record, Opened) != (opened is None):
            raise DamageError(path, "a record is out of place")
        if isinstance(record, Opened):
            opened = record
            found = (opened.bundle_id, opened.encoder, opened.dim)
            if manifest and found != (manifest.bundle_id, manifest.encoder.digest, manifest.encoder.dim):
                raise BundleError(
                    f"{path.parent.name}/{path.name}",
                    f"is the journal of bundle {opened.bundle_id}, not of this one",
                )
        else:
            rest.append(record)
    assert opened is not None
    return opened, rest


def _opened(fields: dict[str, Any]) -> Opened:
    if fields.pop("format") != FORMAT:
        raise UnreadableError("of another release's format")
    past = tuple(_entry(entry) for entry in fields.pop("past"))
    # Journals from before it was there have none.
    former = {kind: frozenset(names) for kind, names in fields.pop("former", {}).items()}
    return Opened(**fields, past=past, former=Former(**former))


def _entry(fields: Mapping[str, Any]) -> Entry:
    return Entry(**{**fields, "ids": tuple(fields["ids"])})
