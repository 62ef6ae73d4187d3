"""One training item: who drew what, under which licence, and a number that stays the same for ever."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import MISSING, asdict, dataclass, fields

import pyarrow as pa

from attributary_train.errors import CorpusError

UNKNOWN_CREATOR = "unknown"
# SPDX's own word for "nobody said".
UNKNOWN_LICENCE = "NOASSERTION"


@dataclass(frozen=True, slots=True)
class Item:
    """A training item without its pixels, which `Corpus.image` reads."""

    id: int  # the first 63 bits of SHA-256 of `key`; fits a signed 64-bit integer
    key: str  # names the drawing whatever the package's version, e.g. "openmoji/1F34E"
    uri: str  # package, version and path, e.g. "openmoji@17.0.0/color/svg/1F34E.svg"
    caption: str
    keywords: tuple[str, ...]
    concept_id: (
        str  # Unicode code points in hex ("1F34E") where there are some, else a normalised name ("mouse-pad")
    )
    creator: str
    creator_url: str  # may be empty
    style_set: str  # drawings made to look alike, e.g. "noto"
    family: str  # style sets that are relatives of each other, e.g. "fluent" for the flat and the 3D one
    licence_spdx: str
    licence_url: str  # may be empty
    sha256: str  # of the RGB bytes of the picture that is embedded, row by row, hex
    near_dup_group: int  # number of the group, from 0; items of one group share credit
    file: str = (
        ""  # the picture that is embedded, below the corpus; empty in corpora from before it was noted
    )
    creator_ids: tuple[str, ...] = ()  # who the creator is: "isni:...", "orcid:..."; as far as it is known


_TYPES: dict[str, pa.DataType] = {
    "id": pa.int64(),
    "keywords": pa.list_(pa.string()),
    "creator_ids": pa.list_(pa.string()),
    "near_dup_group": pa.int64(),
}
SCHEMA = pa.schema(
    [pa.field(field.name, _TYPES.get(field.name, pa.string()), nullable=False) for field in fields(Item)]
)


def item_id(key: str) -> int:
    """Number an item by its key: the first 63 bits of SHA-256, so that rebuilding never renumbers."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") >> 1


def ids_digest(ids: Iterable[int]) -> str:
    """SHA-256 (hex) of the ids in their order: two corpora with the same digest hold the same items."""
    digest = hashlib.sha256()
    for number in ids:
        digest.update(number.to_bytes(8, "big"))
    return digest.hexdigest()


def to_table(items: list[Item]) -> pa.Table:
    """Lay items out as the Arrow table that `items.parquet` holds."""
    return pa.Table.from_pylist([asdict(item) for item in items], schema=SCHEMA)


def from_table(table: pa.Table, where: str) -> list[Item]:
    """Read items back; raises `CorpusError` naming `where` and the columns that are missing."""
    missing = [
        field.name
        for field in fields(Item)
        if field.default is MISSING and field.name not in table.column_names
    ]
    if missing:
        raise CorpusError(where, f"columns missing: {', '.join(missing)}")
    rows = table.select([name for name in SCHEMA.names if name in table.column_names]).to_pylist()
    for row in rows:
        for name in ("keywords", "creator_ids"):
            row[name] = tuple(row.get(name) or ())
    return [Item(**row) for row in rows]
