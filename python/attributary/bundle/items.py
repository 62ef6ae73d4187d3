"""`items.parquet`: who and what each row of the vector store is."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from attributary.errors import BundleError

from .names import Codes, same_name

ITEMS = "items.parquet"
# What is kept of what an item looks like, int8 of this shape: `attributary.pictures.looks`.
LOOK = (2, 260)
# A column of item tables beside a student, not of a bundle's: the bytes of each item's look, empty where it has none.
LOOK_COLUMN = "look"
GROUP = "near_dup_group"
_COLUMNS: dict[str, pa.DataType] = {
    "id": pa.int64(),
    "caption": pa.string(),
    "creator": pa.string(),
    "creator_url": pa.string(),
    "licence": pa.string(),
    "uri": pa.string(),
    "near_dup_group": pa.int64(),
}
# True for rows of deleted items that a compaction has kept for the sum of shares: nothing is known of them but their
# vector and group, and no id leads to them. Without the column there are none.
WITHHELD = "withheld"
# Identifiers of the row's creator (`creator_ids`), a list; without the column none are known.
CREATOR_IDS = "creator_ids"
_IDS_TYPE = pa.list_(pa.string())
# Of a row: id, caption, creator, licence, uri, creator_url, near_dup_group, creator_ids.
Facts: TypeAlias = tuple[int, str, str, str, str, str, int, tuple[str, ...]]
_KEPT = 65_536
# Of each byte, the small letter or the digit that it is, else a blank.
_SMALL_ASCII = bytes(ord(c.lower()) if c.isascii() and c.isalnum() else 32 for c in map(chr, range(256)))
SCHEMA = pa.schema([pa.field(name, kind, nullable=False) for name, kind in _COLUMNS.items()])


@dataclass(frozen=True, slots=True)
class ItemRecord:
    """One row of an item table."""

    id: int
    caption: str
    creator: str
    creator_url: str
    licence: str
    uri: str
    near_dup_group: int

    def __post_init__(self) -> None:
        for name in ("creator", "licence"):
            object.__setattr__(self, name, same_name(getattr(self, name)))

    def fields(self) -> dict[str, Any]:
        """The columns of `items.parquet`."""
        return asdict(self)


class ItemTable:
    """Read access by row. Text stays in Arrow memory; only what an answer shows becomes Python strings."""

    def __init__(self, table: pa.Table) -> None:
        problem = table_problem(table)
        if problem:
            raise BundleError(ITEMS, problem)
        self.withheld = _withheld(table)
        self._facts: dict[int, Facts] = {}
        ids = creator_ids_column(table)
        table = table.select(SCHEMA.names).cast(SCHEMA)
        self._ids = _numpy(table, "id")
        known = np.arange(len(table)) if self.withheld is None else np.flatnonzero(~self.withheld)
        order = known[np.argsort(self._ids[known], kind="stable")]
        self._sorted_ids, self._row_of_sorted = self._ids[order], order
        if (self._sorted_ids[1:] == self._sorted_ids[:-1]).any():
            raise BundleError(ITEMS, "column id holds a value twice")
        self._text = {name: _text(table, name) for name in ("caption", "creator_url", "uri")}
        self.creator_of_row, self.creator_names = _codes(table, "creator")
        self.licence_of_row, self.licence_names = _codes(table, "licence")
        self.creator_codes = Codes(self.creator_names)
        self.licence_codes = Codes(self.licence_names)
        self._ids_of_creator = _ids_by_name(table, ids)
        self._groups = _numpy(table, "near_dup_group")
        self._columns: dict[str, Any] = {"id": self._ids, "near_dup_group": self._groups, **self._text}
        # Dense codes, as the rescoring kernel wants them.
        self.groups, of_row = np.unique(self._groups, return_inverse=True)  # ascending
        self.group_of_row: NDArray[np.int32] = of_row.astype(np.int32)

    @classmethod
    def read(cls, path: Path) -> ItemTable:
        """Read the Parquet file; raises BundleError naming it."""
        try:
            # Not read_table: it loads the data sets of Arrow, and with them pandas where that is installed.
            with pq.ParquetFile(path) as file:
                return cls(file.read())
        except (OSError, pa.ArrowException) as error:
            raise BundleError(ITEMS, f"cannot be read: {error}") from error

    def __len__(self) -> int:
        return len(self._ids)

    def cell(self, name: str, row: int) -> Any:
        """One value of a row, by its column's name; creators and licences are codes."""
        found = self._columns[name][row]
        return found.item() if isinstance(found, np.generic) else found.as_py()

    def id_of(self, row: int) -> int:
        """The item's stable id."""
        return int(self.cell("id", row))

    def row_of(self, item_id: int) -> int | None:
        """The row of an id, None if there is none."""
        place = int(np.searchsorted(self._sorted_ids, item_id)) if -(2**63) <= item_id < 2**63 else len(self)
        if place >= len(self._sorted_ids) or self._sorted_ids[place] != item_id:
            return None
        return int(self._row_of_sorted[place])

    def caption(self, row: int) -> str:
        """What the item shows, in words."""
        return str(self.cell("caption", row))

    def uri(self, row: int) -> str:
        """Where the item came from."""
        return str(self.cell("uri", row))

    def creator_url(self, row: int) -> str:
        """The creator's page, possibly empty."""
        return str(self.cell("creator_url", row))

    def creator(self, row: int) -> str:
        """Who made the item."""
        return self.creator_names[int(self.creator_of_row[row])]

    def ids_of(self, creator: str) -> tuple[str, ...]:
        """Identifiers of a creator, of all of their rows, sorted; none where none are known."""
        return self._ids_of_creator.get(creator, ())

    def licence(self, row: int) -> str:
        """SPDX identifier."""
        return self.licence_names[int(self.licence_of_row[row])]

    def near_dup_group(self, row: int) -> int:
        """Items of one group are near duplicates and share credit."""
        return int(self.cell("near_dup_group", row))

    @property
    def near_dup_groups(self) -> NDArray[np.int64]:
        """The groups of all rows, int64 [N]."""
        return self._groups

    def facts(self, row: int) -> Facts:
        """What an answer says of a row; kept, as Arrow takes longer to look one up than a search takes."""
        found = self._facts.get(row)
        if found is None:
            if len(self._facts) >= _KEPT:
                self._facts.clear()
            creator = self.creator(row)
            found = self._facts[row] = (
                self.id_of(row),
                self.caption(row),
                creator,
                self.licence(row),
                self.uri(row),
                self.creator_url(row),
                self.near_dup_group(row),
                self.ids_of(creator),
            )
        return found

    def record(self, row: int) -> ItemRecord:
        """Everything that is known of a row."""
        return ItemRecord(
            self.id_of(row),
            self.caption(row),
            self.creator(row),
            self.creator_url(row),
            self.licence(row),
            self.uri(row),
            self.near_dup_group(row),
        )

    @property
    def nbytes(self) -> int:
        """Bytes that the table holds in memory; names of creators and licences, which are few, left out."""
        columns = (self._ids, self._sorted_ids, self._row_of_sorted, self._groups)
        codes = (self.creator_of_row, self.licence_of_row, self.group_of_row)
        text = sum(column.nbytes for column in self._text.values())
        return int(text + sum(column.nbytes for column in (*columns, *codes)))

    def rows_by_id(self, after: int | None, chunk: int) -> Iterator[NDArray[np.int64]]:
        """Yield the rows of ids above `after` (None: all), by ascending id, `chunk` at a time; int64."""
        place = 0 if after is None else int(np.searchsorted(self._sorted_ids, after, "right"))
        for start in range(place, len(self._sorted_ids), chunk):
            yield self._row_of_sorted[start : start + chunk]

    def rows_from(self, source: str) -> NDArray[np.int64]:
        """Rows whose uri begins with `source`, int64, ascending."""
        matches = pc.starts_with(self._text["uri"], pattern=source)
        return np.flatnonzero(matches.to_numpy(zero_copy_only=False)).astype(np.int64)

    def rows_with(self, text: str) -> NDArray[np.bool_]:
        """Which rows' captions hold `text`, whatever its case; bool [N]."""
        matches = pc.match_substring(self._text["caption"], pattern=text, ignore_case=True)
        return np.asarray(matches.to_numpy(zero_copy_only=False), dtype=bool)

    def rows_with_words(self, words: Collection[str], start: int, stop: int) -> NDArray[np.int64]:
        """Rows from `start` to `stop` whose captions hold one of some words, small and without accents; int64."""
        text, known = self._text["caption"].slice(start, stop - start), _texts(sorted(words))
        ascii_alone = pc.string_is_ascii(text)
        found = [np.zeros(0, np.int64)]
        for part, words_of in ((ascii_alone, _ascii_words), (pc.invert(ascii_alone), _any_words)):
            spoken = words_of(pc.filter(text, part))
            wanted = pc.is_in(pc.list_flatten(spoken), value_set=known)
            places = pc.unique(pc.filter(pc.list_parent_indices(spoken), wanted))
            rows = pc.take(pc.indices_nonzero(part), places)
            found.append(_plain(pa.chunked_array([rows])).astype(np.int64) + start)
        return np.sort(np.concatenate(found))


def _any_words(text: pa.Array[Any]) -> Any:
    """The words of each of some texts, small and without accents."""
    text = pc.utf8_normalize(pc.utf8_lower(text), form="NFKD")  # type: ignore[attr-defined]
    text = pc.replace_substring_regex(text, pattern=r"\p{M}", replacement="")
    return pc.split_pattern_regex(text, pattern=r"[^\p{L}\p{N}]+")


def _ascii_words(text: pa.Array[Any]) -> Any:
    """As `_any_words`, of texts of ASCII alone: a third of the time."""
    _, ends, data = text.buffers()
    small = (data.to_pybytes() if data else b"").translate(_SMALL_ASCII)
    return pc.ascii_split_whitespace(
        pa.Array.from_buffers(text.type, len(text), [None, ends, pa.py_buffer(small)], offset=text.offset)
    )


def table_problem(table: pa.Table) -> str | None:
    """Say what keeps an Arrow table from being an item table: a missing, wrongly typed or null column."""
    for wanted in SCHEMA:
        if wanted.name not in table.column_names:
            return f"column {wanted.name} is missing"
        column = table.column(wanted.name)
        if column.null_count:
            return f"column {wanted.name} holds {column.null_count} nulls"
        try:
            column.cast(wanted.type)
        except pa.ArrowException:
            return f"column {wanted.name} must be {wanted.type}, is {column.type}"
    return None


def _withheld(table: pa.Table) -> NDArray[np.bool_] | None:
    """The rows that are withheld, bool [N]; None if there are none. Raises BundleError."""
    if WITHHELD not in table.column_names:
        return None
    column = table.column(WITHHELD)
    if column.type != pa.bool_() or column.null_count:
        raise BundleError(ITEMS, f"column {WITHHELD} must be bool without nulls, is {column.type}")
    rows: NDArray[np.bool_] = column.to_numpy()
    return rows if rows.any() else None


def creator_ids_column(table: pa.Table) -> pa.Array[Any] | None:
    """The identifiers of the rows' creators, None without the column; raises BundleError for another type."""
    if CREATOR_IDS not in table.column_names:
        return None
    try:
        column = table.column(CREATOR_IDS).cast(_IDS_TYPE).combine_chunks()
        return column.chunk(0) if isinstance(column, pa.ChunkedArray) else column
    except pa.ArrowException:
        raise BundleError(
            ITEMS, f"column {CREATOR_IDS} must be {_IDS_TYPE}, is {table.column(CREATOR_IDS).type}"
        ) from None


def select_columns(table: pa.Table) -> pa.Table:
    """The columns of a bundle's items, of their types; that of identifiers only where some are known."""
    ids = creator_ids_column(table)
    found = table.select(SCHEMA.names).cast(SCHEMA)
    if ids is None or not len(pc.list_flatten(ids)):
        return found
    return found.append_column(pa.field(CREATOR_IDS, _IDS_TYPE), ids)


def _ids_by_name(table: pa.Table, ids: pa.Array[Any] | None) -> dict[str, tuple[str, ...]]:
    """Identifiers by creator; a creator is a name, so one row's are all rows'."""
    if ids is None:
        return {}
    names = table.column("creator").take(pc.list_parent_indices(ids))
    pairs = pa.table({"creator": names, "id": pc.list_flatten(ids)})
    found: dict[str, set[str]] = {}
    for pair in pairs.group_by(["creator", "id"]).aggregate([]).to_pylist():
        found.setdefault(same_name(pair["creator"]), set()).add(pair["id"])
    return {name: tuple(sorted(entries)) for name, entries in found.items()}


def _numpy(table: pa.Table, name: str) -> NDArray[np.int64]:
    return _plain(table.column(name)).astype(np.int64)


def _plain(column: Any) -> NDArray[Any]:
    """An Arrow column of numbers without nulls; its own `to_numpy` loads pandas where that is installed."""
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], array.type)
    return np.from_dlpack(array)


def _texts(values: Sequence[str]) -> pa.Array[Any]:
    """Texts as an Arrow column; `pa.array` loads pandas where that is installed."""
    data = [value.encode() for value in values]
    ends = np.cumsum([0, *map(len, data)], dtype=np.int64)
    buffers = [None, pa.py_buffer(ends.tobytes()), pa.py_buffer(b"".join(data))]
    return pa.Array.from_buffers(pa.large_string(), len(data), buffers)


def _text(table: pa.Table, name: str) -> pa.Array[Any]:
    # One contiguous array with 64-bit offsets: a look-up is then one step, whatever the size.
    combined = table.column(name).cast(pa.large_string()).combine_chunks()
    return combined.chunk(0) if isinstance(combined, pa.ChunkedArray) else combined


def _codes(table: pa.Table, name: str) -> tuple[NDArray[np.int32], list[str]]:
    column = table.column(name)
    spelled = pc.unique(column).sort()
    found = [same_name(str(value)) for value in spelled.to_pylist()]
    names = sorted(set(found))
    place = {name: code for code, name in enumerate(names)}
    codes = np.array([place[name] for name in found], np.int32)
    return codes[_plain(pc.index_in(column, value_set=spelled))], names
