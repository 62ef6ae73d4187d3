"""`thumbnails.arrow`, an optional part of a bundle: small pictures of its items, for people to look at."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from attributary.errors import BundleError

THUMBNAILS = "thumbnails.arrow"
KIND = "image/webp"
_COLUMNS: dict[str, pa.DataType] = {"id": pa.int64(), "picture": pa.large_binary()}
_SCHEMA = pa.schema(_COLUMNS)
_BLOCK = 1_024


class Thumbnails:
    """Pictures by an item's id, memory-mapped. Opening reads ids only; BundleError if the file is no such table."""

    def __init__(self, path: Path) -> None:
        try:
            table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        except (OSError, pa.ArrowException) as error:
            raise BundleError(THUMBNAILS, f"cannot be read: {error}") from error
        if table.schema != _SCHEMA:
            raise BundleError(THUMBNAILS, f"must have the columns {_SCHEMA.names}")
        self._pictures = table.column("picture")
        ids = table.column("id").to_numpy()
        self._order = np.argsort(ids, kind="stable")
        self._ids = ids[self._order]

    def __len__(self) -> int:
        return len(self._ids)

    def of(self, item_id: int) -> bytes | None:
        """The picture of an item, WebP; None if it has none here."""
        place = int(np.searchsorted(self._ids, item_id))
        if place >= len(self._ids) or self._ids[place] != item_id:
            return None
        return bytes(self._pictures[int(self._order[place])].as_py())

    def only(self, ids: NDArray[np.int64]) -> Iterable[tuple[int, bytes]]:
        """Yield (id, picture) of those of `ids` that have one, by ascending id."""
        for item_id in np.intersect1d(self._ids, ids).tolist():
            if (picture := self.of(item_id)) is not None:
                yield item_id, picture


def write_thumbnails(pictures: Iterable[tuple[int, bytes]], path: Path) -> int:
    """Write (id, WebP picture) pairs; return how many there were. Ids must be distinct."""
    count = 0
    rest = iter(pictures)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, _SCHEMA) as out:
        while block := list(islice(rest, _BLOCK)):
            ids, data = zip(*block, strict=True)
            out.write_batch(
                pa.record_batch(
                    [pa.array(ids, pa.int64()), pa.array(data, pa.large_binary())], schema=_SCHEMA
                )
            )
            count += len(block)
    return count
