"""Nothing is paid a second time: statements that lie there already, and which generations they counted.

A statement that lies there counts as paid. Beside one that was brought forward a note says by which run.

One picture is one generation, unless the log itself says otherwise, by two ids: a service may answer twice with the
same bytes. A place in a log ("log.parquet#7", a path) is no such id: it changes when a log grows or is moved.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from attributary.errors import InvalidArgumentError, OutputError
from attributary.files import write_file
from attributary.plain import json_line

from . import money

GENERATIONS: Final = "generations.parquet"
_RUN, _SHARDS = "run.json", "shards/"
_TABLES: Final = ("parquet", "arrow")
STATEMENT: Final = "payout.json"
_FIELD: Final = "brought_forward"


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
        table = table_of(data)
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
            for row in table_of(checked(run, shard, files), columns).to_pylist():
                if row["error_code"] is None:
                    yield row["generation_id"], row["image_sha256"]


def table_of(data: bytes, columns: list[str] | None = None) -> pa.Table:
    """Read Parquet in this thread alone; raises ArrowException.

    `read_table` reads by Arrow's data sets, whose threads are still there when the interpreter ends.
    """
    with pq.ParquetFile(pa.BufferReader(data)) as file:
        return file.read(columns, use_threads=False)


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


@dataclass(frozen=True, slots=True)
class Before:
    """A statement (its payout.json), as far as the next one has to know it."""

    path: Path
    run: str
    sha256: str
    owed: Mapping[str, Decimal] = field(default_factory=dict)  # what it carried forward, by creator
    runs: frozenset[str] = frozenset()  # whose amounts it holds, its own and those that it brought forward
    counted: Counted = field(default_factory=Counted)  # by those; statements from before do not say
    excluded: frozenset[str] = frozenset()  # whom it excluded, also where its run did not know them

    @property
    def note(self) -> Path:
        """Says by which run it was brought forward."""
        real = self.path.resolve()
        return real.with_name(f"{real.name}.brought-forward")

    def taken_by(self) -> str:
        """The run whose statement has brought this one forward; empty if none has."""
        try:
            return str(json.loads(self.note.read_bytes())["run"])
        except FileNotFoundError:
            return ""
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            raise InvalidArgumentError(_FIELD, f"{self.note} cannot be read") from None

    def take(self, run: str) -> None:
        """Note that this run brings it forward; raises InvalidArgumentError where another one has."""
        other = self.taken_by()
        if other not in ("", run):
            raise InvalidArgumentError(
                _FIELD,
                f"{self.path} was brought forward by the statement of run {other} already: bring that one forward, "
                f"or, if it was never paid, remove it and {self.note.name}",
            )
        write_file(self.note, json_line({"run": run, "sha256": self.sha256}).encode() + b"\n")


def read(path: Path, currency: str) -> Before:
    """Read a statement's payout.json, and what lies beside it; raises InvalidArgumentError."""
    digits = money.digits_of(currency)
    try:
        data = path.read_bytes()
        facts = json.loads(data)
        if facts["currency"] != currency:
            raise InvalidArgumentError(_FIELD, f"{path} is in {facts['currency']}, not in {currency}")
        found: dict[str, Decimal] = {}
        for line in facts["creators"]:
            # Statements from before do not tell it by itself.
            of = {"carried forward": "due", "excluded": "brought_forward"}.get(line["status"], "")
            owed = line["carried_forward"] if "carried_forward" in line else line[of] if of else "0"
            carried = money.amount(owed, digits, _FIELD)
            if carried:
                # TypeError for what is no text.
                name = "" + line["creator"]
                found[name] = found.get(name, Decimal(0)) + carried
        run = str(facts["run"])
        # What it had brought forward itself is in its amounts.
        runs = frozenset([run, *map(str, facts.get("brought_forward_of", ()))])
        counted = _counted(path, facts["generations_sha256"]) if "generations_sha256" in facts else Counted()
        excluded = frozenset(map(str, facts.get("excluded", ())))
        return Before(path, run, hashlib.sha256(data).hexdigest(), found, runs, counted, excluded)
    except OSError as error:
        raise InvalidArgumentError(_FIELD, f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise InvalidArgumentError(_FIELD, f"{path} is no {STATEMENT}") from None


def in_sight(run: Path, currency: str, known: Container[str]) -> Iterator[Before]:
    """Yield the statements in this currency in the directories beside a run's, but for those of known runs."""
    here = run.resolve()
    for path in sorted({path.resolve() for path in here.parent.glob(f"*/payout/{STATEMENT}")}):
        facts = _facts(path)
        if path.parent.parent != here and facts.get("currency") == currency and facts.get("run") not in known:
            yield read(path, currency)


def check_place(path: Path, run: str, currency: str, data: bytes) -> None:
    """Refuse to write a statement over another run's or currency's, or over one that was brought forward as it was."""
    if not path.exists():
        return
    facts = _facts(path)
    there = facts.get("run"), facts.get("currency")
    if there != (run, currency):
        raise InvalidArgumentError(
            "out",
            f"{path} is the statement of run {there[0]} in {there[1]}: move it, or choose another --out",
        )
    brought = facts.get("brought_forward_sha256")
    if brought not in (None, json.loads(data)["brought_forward_sha256"]):
        raise InvalidArgumentError(
            _FIELD, f"{path} has brought another statement forward, which this one would lose: give it again"
        )
    by = Before(path, run, "").taken_by()
    if by and path.read_bytes() != data:
        raise InvalidArgumentError(
            "out", f"{path} would change, and the statement of run {by} has brought it forward as it is"
        )


def _facts(path: Path) -> dict[str, Any]:
    try:
        facts = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return facts if isinstance(facts, dict) else {}


def _counted(path: Path, digest: str) -> Counted:
    place = path.resolve().with_name(GENERATIONS)
    try:
        data = place.read_bytes()
        if hashlib.sha256(data).hexdigest() == digest:
            return Counted.read(data)
    except (OSError, KeyError, pa.ArrowException):
        pass
    raise InvalidArgumentError(
        _FIELD,
        f"{place} is not there, or not that of {path.name}: it says which generations were counted; copy it too",
    )
