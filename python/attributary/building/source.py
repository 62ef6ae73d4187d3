"""Reading the items that a bundle is built from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from attributary.bundle.items import GROUP, ITEMS, select_columns, table_problem
from attributary.bundle.names import check_name, names_nobody, same_name
from attributary.errors import BundleError, InvalidArgumentError


@dataclass(frozen=True, slots=True)
class Source:
    """Items in row order, and where each one's picture lies."""

    table: pa.Table  # the columns of a bundle's items.parquet
    pictures: list[Path]
    grouped: bool = True  # whether the corpus says which items are near duplicates

    def __len__(self) -> int:
        return len(self.pictures)


def read_source(directory: Path, exclude_creators: tuple[str, ...] = (), limit: int | None = None) -> Source:
    """Read a corpus directory: `items.parquet` beside its pictures.

    Columns: id (int64), caption, creator, and optionally creator_url, licence (or licence_spdx), uri, near_dup_group.
    A column `file` holds each picture's path below the directory; where it is missing or empty, the picture is
    `images/*/<id>.png`.
    Raises InvalidArgumentError naming the file or column at fault.
    """
    path = directory / ITEMS
    table = _read(path)
    if exclude_creators:
        table = table.filter(_not_by(table, exclude_creators))
    table = table if limit is None else table.slice(0, limit)
    pictures = _pictures(directory, table)
    return Source(items_table(table, path), pictures, GROUP in table.column_names)


def _not_by(table: pa.Table, creators: tuple[str, ...]) -> pa.Array[Any]:
    """Which rows are by none of some creators, however their names are spelt; raises for one whom no row names."""
    names = pc.unique(table["creator"]).to_pylist()
    spelt = [same_name(name or "") for name in names]
    wanted = {same_name(name): name for name in creators}
    if unknown := sorted(wanted.keys() - set(spelt)):
        raise InvalidArgumentError(
            "exclude_creator", f"no item has the creator {wanted[unknown[0]][:80]!r}; nothing is built"
        )
    out = [name for name, one in zip(names, spelt, strict=True) if one in wanted]
    return pc.invert(pc.is_in(table["creator"], pa.array(out)))


def read_rows(corpus: Path, ids: NDArray[np.int64]) -> pa.Table:
    """The rows of some items, in their order, with the columns of a bundle; pictures are not looked for.

    `corpus` is a corpus directory or its items.parquet alone. Raises InvalidArgumentError naming an id that is missing.
    """
    path = corpus if corpus.is_file() else corpus / ITEMS
    items = items_table(_read(path), path)
    place = {number: row for row, number in enumerate(items["id"].to_pylist())}
    missing = [number for number in ids.tolist() if number not in place]
    if missing:
        raise InvalidArgumentError(
            "corpus", f"{path} lacks {len(missing)} of {len(ids)} items, e.g. id {missing[0]}"
        )
    return items.take([place[number] for number in ids.tolist()]).combine_chunks()


def pictures_of(directory: Path, ids: NDArray[np.int64]) -> list[Path]:
    """Where the pictures of some items of a corpus directory lie, in their order; raises as `read_source` does."""
    source = read_source(directory)
    by_id = dict(zip(source.table["id"].to_pylist(), source.pictures, strict=True))
    return [by_id[number] for number in ids.tolist()]


def _read(path: Path) -> pa.Table:
    if not path.is_file():
        raise InvalidArgumentError("corpus", f"{path} does not exist; build the corpus first")
    try:
        return pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise InvalidArgumentError("corpus", f"{path} cannot be read: {error}") from error


def items_table(table: pa.Table, path: Path) -> pa.Table:
    """The columns of a bundle's items.parquet; raises InvalidArgumentError naming the file and column at fault."""
    items = _bundle_columns(table)
    if problem := table_problem(items):
        raise InvalidArgumentError("corpus", f"{path}: {problem}")
    if len(items) == 0:
        raise InvalidArgumentError("corpus", f"{path} has no items")
    _check_names(items, path)
    try:
        return select_columns(items)
    except BundleError as error:
        raise InvalidArgumentError("corpus", f"{path}: {error.message}") from None


def _check_names(items: pa.Table, path: Path) -> None:
    """Raise InvalidArgumentError, naming the first item, for a creator or licence that no addition may have."""
    for name in ("creator", "licence"):
        for found in map(str, pc.unique(items[name]).to_pylist()):
            try:
                if not names_nobody(found):
                    check_name(same_name(found), name)
            except InvalidArgumentError as error:
                row = pc.index(items[name], found).as_py()
                raise InvalidArgumentError(
                    "corpus", f"{path}: {name} of item {items['id'][row]}: {error.message}"
                ) from None


def _bundle_columns(table: pa.Table) -> pa.Table:
    if "licence" not in table.column_names and "licence_spdx" in table.column_names:
        table = table.append_column("licence", table["licence_spdx"])
    defaults: dict[str, list[str] | list[int]] = {
        "creator_url": [""] * len(table),
        "licence": ["NOASSERTION"] * len(table),
        "uri": [""] * len(table),
        # Without groups every item stands for itself.
        "near_dup_group": list(range(len(table))),
    }
    for name, values in defaults.items():
        if name not in table.column_names:
            table = table.append_column(name, pa.array(values))
    at = table.column_names.index(GROUP)
    if pa.types.is_integer(table.schema.field(at).type):
        table = table.set_column(at, GROUP, _groups(table[GROUP]))
    return table


def _groups(numbers: pa.ChunkedArray[Any]) -> pa.Array[Any]:
    """Groups of near duplicates, int64. A negative number says none, as clusterers do: the item gets one of its own."""
    found = np.asarray(numbers.cast(pa.int64(), safe=False).fill_null(pa.scalar(-1, pa.int64())).to_numpy())
    alone = found < 0
    return pa.array(np.where(alone, found.max(initial=-1) + np.cumsum(alone), found))


def _pictures(directory: Path, table: pa.Table) -> list[Path]:
    ids = table["id"].to_pylist()
    named = table["file"].to_pylist() if "file" in table.column_names else [""] * len(ids)
    by_id = {} if all(named) else {path.stem: path for path in (directory / "images").glob("*/*.png")}
    pictures = []
    for item_id, name in zip(ids, named, strict=True):
        found = directory / str(name) if name else by_id.get(str(item_id))
        if found is None:
            raise InvalidArgumentError("corpus", f"{directory / 'images'} has no picture {item_id}.png")
        pictures.append(found)
    return pictures
