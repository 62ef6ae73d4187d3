"""One signal about one picture, and the file that keeps what was ever read: `opt-out.parquet`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from attributary_train.errors import CorpusError
from attributary_train.files import reading

SIGNALS_FILE = "opt-out.parquet"
# What it means for training: reserved (no), conditional (see the source), allowed, unspecified, unreadable.
Means = Literal["reserved", "conditional", "allowed", "unspecified", "unreadable"]
_MEANS_OF_FLAG: dict[str, Means] = {"1": "reserved", "0": "allowed"}
_READ = b"attributary.read_at"


@dataclass(frozen=True, slots=True)
class Signal:
    """What somebody said about one picture."""

    kind: str  # "iptc-plus", "cawg", "tdmrep", "robots", "ai.txt", "content-signal", "noai"
    means: Means
    value: str  # as it stands there
    source: str  # file that says so, as seen from the picture's folder
    source_sha256: str


@dataclass(frozen=True, slots=True)
class Fact:
    """A signal about an item, and when it was there; times are ISO 8601, UTC."""

    item_id: int
    uri: str
    kind: str
    means: str
    value: str
    source: str
    source_sha256: str
    first_seen: str
    last_seen: str


def meaning_of_flag(value: str) -> Means:
    """What a `tdm-reservation` means."""
    return _MEANS_OF_FLAG.get(value.strip(), "unreadable")


SCHEMA = pa.schema(
    [
        pa.field(entry.name, pa.int64() if entry.name == "item_id" else pa.string(), nullable=False)
        for entry in fields(Fact)
    ]
)


def merge(before: Iterable[Fact], found: Iterable[tuple[int, str, Signal]], at: str) -> list[Fact]:
    """Return what was known and what is there now; a signal that has gone keeps the time when it was last seen."""
    known = {_key(fact): fact for fact in before}
    for item_id, uri, signal in found:
        fact = Fact(item_id, uri, **asdict(signal), first_seen=at, last_seen=at)
        first = known.get(_key(fact))
        known[_key(fact)] = Fact(**{**asdict(fact), "first_seen": first.first_seen if first else at})
    return sorted(
        known.values(), key=lambda fact: (fact.item_id, fact.kind, fact.source, fact.first_seen, fact.value)
    )


def to_table(facts: list[Fact], at: str) -> pa.Table:
    """Lay facts out as the table that the file holds; `at` is when pictures were last read."""
    table = pa.Table.from_pylist([asdict(fact) for fact in facts], schema=SCHEMA)
    return table.replace_schema_metadata({_READ: at.encode()})


def read_facts(path: Path) -> tuple[list[Fact], str]:
    """Return the facts of a file, and when pictures were last read; raises CorpusError. No file: none."""
    if not path.exists():
        return [], ""
    with reading(path, CorpusError):
        table = pq.read_table(path)
        at = (table.schema.metadata or {}).get(_READ, b"").decode()
        return [Fact(**row) for row in table.select(SCHEMA.names).to_pylist()], at


def summary(facts: list[Fact], at: str) -> dict[str, Any]:
    """What corpus.json says of the signals that are there now."""
    now = [fact for fact in facts if fact.last_seen == at]
    counts = Counter((fact.kind, fact.means) for fact in now)
    return {
        "signals": [
            {"kind": kind, "means": means, "items": count} for (kind, means), count in sorted(counts.items())
        ],
        "items_reserved": len({fact.item_id for fact in now if fact.means == "reserved"}),
        "items_conditional": len({fact.item_id for fact in now if fact.means == "conditional"}),
    }


def _key(fact: Fact) -> tuple[Any, ...]:
    return fact.item_id, fact.kind, fact.means, fact.value, fact.source, fact.source_sha256
