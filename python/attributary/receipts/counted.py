"""Which generations were counted, so that none is paid for twice: the picture of each, and the log's own id of it.

One picture is one generation, unless the log itself says otherwise, by two ids: a service may answer twice with the
same bytes. A place in a log ("log.parquet#7", a path) is no such id: it changes when a log grows or is moved.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from attributary.errors import OutputError

FILE: Final = "generations.parquet"
_RUN, _SHARDS = "run.json", "shards/"
_TABLES: Final = ("parquet", "arrow")


def _none() -> NDArray[np.uint64]:
    return np.zeros(0, np.uint64)


@dataclass(frozen=True, slots=True)
class Counted:
    """Generations, 64 bits of a digest each."""

    picture: NDArray[np.uint64] = field(default_factory=_none)
    name: NDArray[np.uint64] = field(default_factory=_none)  # 0 where the log has no id of its own

    def __len__(self) -> int:
        return len(self.picture)

    def __add__(self, other: Counted) -> Counted:
        return Counted(np.concatenate([self.picture, other.picture]), np.concatenate([self.name, other.name]))

    def among(self, others: Counted) -> NDArray[np.bool_]:
        """Which of these are among others."""
        # Of years of generations few are these: hashed once, and no longer sorted.
        near = pc.is_in(pa.array(others.picture), value_set=pa.array(self.picture)).to_numpy(False)
        picture, name = others.picture[near], others.name[near]
        again = np.isin(self.picture ^ self.name, picture ^ name)
        again |= np.isin(self.picture, picture[name == 0])
        again |= (self.name == 0) & np.isin(self.picture, picture)
        return again

    def file(self) -> bytes:
        """The generations as Parquet."""
        out = io.BytesIO()
        pq.write_table(pa.table({"picture": self.picture, "name": self.name}), out, use_dictionary=False)
        return out.getvalue()

    @classmethod
    def read(cls, data: bytes) -> Counted:
        """Read what `file` wrote."""
        table = pq.read_table(pa.BufferReader(data))
        return cls(table["picture"].to_numpy(), table["name"].to_numpy())


def of_run(run: Path, files: Mapping[str, str]) -> Counted:
    """The answered generations of a run, in order; raises OutputError where its files are not those of its summary."""
    named = _places(run, files)
    pictures, names = [], []
    for name, picture in answered_rows(run, files):
        pictures.append(int(picture[:16], 16))
        names.append(0 if named is None or name.startswith(named) else _digest(name))
    return Counted(np.array(pictures, np.uint64), np.array(names, np.uint64))


def _places(run: Path, files: Mapping[str, str]) -> tuple[str, ...] | None:
    """How ids begin that are only places in a log; None where all of them are: only tables have ids of their own."""
    inputs = json.loads(checked(run, _RUN, files))["inputs"]
    if any(entry["kind"] not in _TABLES for entry in inputs):
        return None
    return tuple(f"{entry['name']}#" for entry in inputs)


def answered_rows(run: Path, files: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield (generation id, SHA-256 of its picture) of a run's answered rows, in order; raises OutputError."""
    columns = ["generation_id", "image_sha256", "error_code"]
    for shard in files:
        if shard.startswith(_SHARDS):
            table = pq.read_table(pa.BufferReader(checked(run, shard, files)), columns=columns)
            for row in table.to_pylist():
                if row["error_code"] is None:
                    yield row["generation_id"], row["image_sha256"]


def checked(run: Path, name: str, files: Mapping[str, str]) -> bytes:
    """Return a file of a run; raises OutputError for one that is not the file that the summary names."""
    try:
        data = (run / name).read_bytes()
    except OSError as error:
        raise OutputError(name, f"cannot be read: {error.strerror}; is {run} a finished run?") from None
    if hashlib.sha256(data).hexdigest() != files.get(name):
        # Money hangs on it: totals that somebody edited are nobody's totals.
        raise OutputError(name, "is not the file that summary.json names")
    return data


def _digest(text: str) -> int:
    return int.from_bytes(
        hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big"
    )
