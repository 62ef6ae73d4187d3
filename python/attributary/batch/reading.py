"""What every kind of input has: a scan before the run, and batches of rows during it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa

from .rows import Batch, Problem


@dataclass(frozen=True, slots=True)
class Shard:
    """Consecutive rows of one input file; all that a worker needs to read them."""

    number: int
    file: int  # place of the input file in the plan
    start: int  # first row in the file
    rows: int
    offset: int = 0  # where a tar is read from, bytes


class Reader(Protocol):
    """Reads one input file. Not safe to share between threads."""

    @property
    def passed(self) -> pa.Schema:
        """The pass-through columns."""
        ...

    def ids(self) -> Iterator[list[str]]:
        """Yield every row's generation id in order, many at a time."""
        ...

    def offset(self, row: int) -> int:
        """Where a shard that begins at this row is read from; known after `ids`."""
        ...

    def batches(self, shard: Shard, size: int) -> Iterator[Batch]:
        """Yield a shard's rows, `size` at a time; raises InputError naming the rows that cannot be read."""
        ...

    def close(self) -> None:
        """Close the file."""
        ...


def nameless(file: str, row: int) -> str:
    """The id of a row that has none of its own."""
    return f"{file}#{row}"


def invalid(field: str, message: str) -> Problem:
    """A problem of the row's own making."""
    return Problem("INVALID_ARGUMENT", field, message)
