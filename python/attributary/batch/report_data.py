"""What a report tells of a finished run, gathered in one pass over its shards; memory does not grow with the run.

Times of a log's column are seconds since 1970: timestamps, dates, ISO 8601 texts, and numbers of any unit.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from attributary.errors import InputError, OutputError

from .rows import OWN_COLUMNS
from .run import CREATORS, RUN, SHARDS, SUMMARY, read_json, read_shard, shard_name, shard_tables
from .values import texts

Unit = Literal["auto", "s", "ms", "us", "ns"]

_PER_SECOND = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}
# Numbers up to here are of this unit: seconds reach the year 5138, milliseconds from 1973 to there, and so on.
_MOST = (("s", 1e11), ("ms", 1e14), ("us", 1e17), ("ns", math.inf))
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(slots=True)
class Times:
    """How one column of a run is read, and the first and last time in it; in seconds."""

    column: str
    unit: str = "s"  # of its numbers
    first: float = math.inf
    last: float = -math.inf

    @classmethod
    def of(cls, columns: Iterable[pa.ChunkedArray[Any]], name: str, unit: Unit) -> Times:
        """Look a column through; raises InputError if it holds no time.

        Numbers are all of one unit: `unit`, or by "auto" the one that puts the largest of them between 1973 and 5138.
        """
        times = cls(name)
        low, high, numbers = math.inf, -math.inf, False
        for column in columns:
            values, of_numbers = _values(column, name)
            finite = values[np.isfinite(values)]
            numbers |= of_numbers
            if len(finite):
                low, high = min(low, float(finite.min())), max(high, float(finite.max()))
        if low > high:
            raise InputError(RUN, "must be a time; no cell of it can be read as one", f"column {name}")
        if numbers:
            largest = max(abs(low), abs(high))
            times.unit = unit if unit != "auto" else next(unit for unit, most in _MOST if largest < most)
        times.first, times.last = low / _PER_SECOND[times.unit], high / _PER_SECOND[times.unit]
        return times

    def seconds(self, column: pa.ChunkedArray[Any]) -> NDArray[np.float64]:
        """Seconds since 1970 of each cell; NaN for what is no time."""
        return _values(column, self.column)[0] / _PER_SECOND[self.unit]


def _values(column: pa.ChunkedArray[Any], name: str) -> tuple[NDArray[np.float64], bool]:
    """(numbers as they stand, or seconds of times; whether they are numbers). NaN for null and for what is none."""
    kind = column.type
    types = pa.types
    if types.is_timestamp(kind) or types.is_date(kind):
        parts = [_clock(chunk) for chunk in column.chunks]
        return np.concatenate([np.zeros(0), *parts]), False
    if types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind):
        found = column.cast(pa.float64(), safe=False).to_numpy()
        return np.asarray(found, np.float64), True
    if types.is_string(kind) or types.is_large_string(kind):
        said = [text for chunk in column.chunks for text, _ in texts(chunk, name)]
        numbers = [_number(text) for text in said]
        if any(number is not None for number in numbers):
            return np.array([math.nan if number is None else number for number in numbers]), True
        return np.array([_iso(text) for text in said], np.float64), False
    raise InputError(RUN, f"must be a time, is {kind}", f"column {name}")


def _clock(chunk: Any) -> NDArray[np.float64]:
    """Seconds of a timestamp or date column, whatever its unit; years that overflow another unit stay."""
    if pa.types.is_date32(chunk.type):
        days = pc.cast(chunk.cast(pa.int32()), pa.float64()).to_numpy(zero_copy_only=False)
        return np.asarray(days, np.float64) * 86_400
    per_second = _PER_SECOND["ms" if pa.types.is_date64(chunk.type) else chunk.type.unit]
    numbers = chunk.cast(pa.int64()).cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    return np.asarray(numbers, np.float64) / per_second


def _number(text: str | None) -> float | None:
    try:
        # A year alone, and 20240101, are dates of ISO 8601.
        return float(text) if text and len(text.strip()) > 8 else None
    except ValueError:
        return None


def _iso(text: str | None) -> float:
    said = (text or "").strip().removesuffix(" UTC").removesuffix(" GMT")
    try:
        at = datetime.fromisoformat(said)
    except ValueError:
        if len(said) == 4 and said.isdecimal() and said != "0000":
            at = datetime(int(said), 1, 1)
        elif len(said) == 7 and said[4] == "-":
            return _iso(f"{said}-01")
        else:
            return math.nan
    # A time without a zone is UTC, as Arrow's are.
    at = at if at.tzinfo is not None else at.replace(tzinfo=UTC)
    return (at - _EPOCH).total_seconds()


BINS = 20
MOST_SLICES = 40
_LOW, _HIGH = 2.5, 97.5
_MOST_ERRORS = 20


@dataclass(frozen=True, slots=True)
class CreatorTotal:
    """One creator's total and its 95% interval; the unit is one generation."""

    name: str
    share: float
    low: float
    high: float
    generations: int


@dataclass(frozen=True, slots=True)
class Slice:
    """Rows of a stretch of time, or of the log."""

    label: str
    rows: int
    answered: int
    out_of_distribution: int
    errors: int


@dataclass(frozen=True, slots=True)
class Example:
    """One generation to show, and where its row is."""

    shard: int
    row: int
    values: dict[str, Any]  # the output row


@dataclass(slots=True)
class ReportData:
    """Everything that the page shows."""

    run: dict[str, Any]  # run.json
    summary: dict[str, Any]  # summary.json
    creators: list[CreatorTotal] = field(default_factory=list)
    diffuse: tuple[float, float, float] = (0.0, 0.0, 0.0)  # sum, low, high
    top_share: NDArray[np.int64] = field(default_factory=lambda: np.zeros(BINS, np.int64))
    diffuse_share: NDArray[np.int64] = field(default_factory=lambda: np.zeros(BINS, np.int64))
    slices: list[Slice] = field(default_factory=list)
    slices_are_of: str = "position in the log"
    timeless: int = 0  # rows without a readable time
    most_certain: list[Example] = field(default_factory=list)
    least_certain: list[Example] = field(default_factory=list)
    errors: list[Example] = field(default_factory=list)  # the first rows without an answer
    # Answered rows that totals are over: those out of distribution are left out unless asked for.
    known: int = 0
    with_foreign: bool = False  # whether generations out of distribution count


def gather(
    directory: Path,
    *,
    creators: int = 20,
    examples: int = 6,
    resamples: int = 400,
    seed: int = 0,
    time_column: str | None = None,
    time_unit: Unit = "auto",
    with_foreign: bool = False,
) -> ReportData:
    """Read a finished run. Rows that are out of distribution count in no total unless `with_foreign` is set.

    Intervals are of a bootstrap over generations: each of `resamples` times every generation gets a Poisson(1) weight,
    and sums are scaled to the run's number of generations (Chamandy et al., Estimating uncertainty for massive data
    streams, 2012). They say how much totals vary with which pictures happened to be generated, not how well the
    bundle attributes. Raises OutputError for a run that is not finished or damaged, InputError for a time column that
    is missing or no time.
    """
    if not (directory / SUMMARY).exists():
        raise OutputError(
            SUMMARY, f"is not there: {directory} is no finished run; run `attributary score` again"
        )
    data = ReportData(read_json(directory / RUN), read_json(directory / SUMMARY), with_foreign=with_foreign)
    try:
        top = pq.read_table(directory / CREATORS, partitioning=None).slice(0, creators)
    except (OSError, pa.ArrowException) as error:
        raise OutputError(CREATORS, f"cannot be read: {error}") from error
    boot = _Bootstrap([str(name) for name in top["creator"].to_pylist()], resamples, seed)
    foreign_diffuse = 0.0
    place = _Slicer(directory, data.summary["rows"], time_column, time_unit)
    for number in range(sum(name.startswith(f"{SHARDS}/") for name in data.summary["files"])):
        table = read_shard(directory / SHARDS / shard_name(number))
        answered = table.filter(pc.is_valid(table["creators"]))
        if not with_foreign:
            foreign = _set(answered["out_of_distribution"])
            # All that a row out of distribution adds to totals is diffuse.
            left_out = answered["diffuse_share"].to_numpy()[foreign]
            foreign_diffuse += float(left_out.sum(dtype=np.float64))
            answered = answered.filter(pa.array(~foreign))
        data.known += len(answered)
        boot.add(answered)
        place.add(table)
        _count(data, answered)
        for row in _candidates(table, examples):
            example = Example(number, row, _shown(table, row))
            data.most_certain = sorted([*data.most_certain, example], key=_certain)[:examples]
            data.least_certain = sorted([*data.least_certain, example], key=_uncertain)[:examples]
        for row in _wrong(table, _MOST_ERRORS - len(data.errors)):
            data.errors.append(Example(number, row, _shown(table, row)))
    low, high = boot.intervals()
    data.creators = [
        CreatorTotal(row["creator"], row["share"], float(least), float(most), row["generations"])
        for row, least, most in zip(top.to_pylist(), low, high, strict=False)
    ]
    data.diffuse = (data.summary["diffuse_share"] - foreign_diffuse, float(low[-1]), float(high[-1]))
    data.slices, data.slices_are_of = place.slices(), time_column or data.slices_are_of
    data.timeless = place.timeless
    return data


def _set(flags: Any) -> NDArray[np.bool_]:
    """Which flags are set; null is not."""
    return np.asarray(pc.fill_null(flags, False).to_numpy(), np.bool_)


def _count(data: ReportData, answered: pa.Table) -> None:
    firsts = [items[0]["share"] if items else 0.0 for items in answered["items"].to_pylist()]
    for shares, counts in (
        (firsts, data.top_share),
        (answered["diffuse_share"].to_pylist(), data.diffuse_share),
    ):
        counts += np.histogram(np.clip(np.asarray(shares, np.float64), 0, 1), BINS, (0, 1))[0]


def _shown(table: pa.Table, row: int) -> dict[str, Any]:
    """Only what the page shows: other columns may hold what Python has no value for."""
    names = [name for name in (*OWN_COLUMNS, "prompt") if name in table.column_names]
    return dict(table.select(names).slice(row, 1).to_pylist()[0])


def _wrong(table: pa.Table, count: int) -> list[int]:
    """The first rows of a shard that have no answer."""
    wrong = pc.is_valid(table["error_code"]).to_numpy()
    return [int(row) for row in np.flatnonzero(wrong)[: max(0, count)]]


def _candidates(table: pa.Table, count: int) -> list[int]:
    """Rows of a shard that may be among the most or the least certain of the run."""
    diffuse = table["diffuse_share"].to_numpy().astype(np.float64)
    rows = np.flatnonzero(np.isfinite(diffuse))
    order = rows[np.argsort(diffuse[rows], kind="stable")]
    return sorted({*order[:count].tolist(), *order[-count:].tolist()})


def _certain(example: Example) -> tuple[float, int, int]:
    return example.values["diffuse_share"], example.shard, example.row


def _uncertain(example: Example) -> tuple[float, int, int]:
    return -example.values["diffuse_share"], example.shard, example.row


class _Bootstrap:
    """Poisson bootstrap of the sums of some creators' shares and of the diffuse share."""

    def __init__(self, names: list[str], resamples: int, seed: int) -> None:
        self._code = {name: code for code, name in enumerate(names)}
        self._rng = np.random.default_rng(seed)
        self._sums = np.zeros((resamples, len(names) + 1))
        self._weight = np.zeros(resamples)
        self._rows = 0

    def add(self, answered: pa.Table) -> None:
        values = np.zeros((len(answered), self._sums.shape[1]))
        for row, creators in enumerate(answered["creators"].to_pylist()):
            for total in creators or ():
                if (code := self._code.get(total["creator"])) is not None:
                    values[row, code] += total["share"]
        values[:, -1] = answered["diffuse_share"].to_numpy()
        weights = self._rng.poisson(1.0, (len(self._sums), len(answered))).astype(np.float64)
        self._sums += weights @ values
        self._weight += weights.sum(axis=1)
        self._rows += len(answered)

    def intervals(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        scaled = self._sums * (self._rows / np.maximum(self._weight, 1.0))[:, None]
        low, high = np.percentile(scaled, [_LOW, _HIGH], axis=0)
        return low, high


class _Slicer:
    """Counts rows by stretches of equal length: of time, or of the log."""

    def __init__(self, directory: Path, rows: int, column: str | None, unit: Unit) -> None:
        self._column = column
        self._done = 0
        self.timeless = 0
        if column is None:
            self._first, self._last = 0.0, float(max(1, rows))
        else:
            self._times = _times(directory, column, unit)
            self._first, self._last = self._times.first, self._times.last
        self._count = max(1, min(MOST_SLICES, rows // 10 or 1))
        self._counts = np.zeros((self._count, 4), np.int64)

    def add(self, table: pa.Table) -> None:
        places = self._done + np.arange(len(table)) + 0.5
        at = places if self._column is None else self._times.seconds(table[self._column])
        self._done += len(table)
        span = max(self._last - self._first, 1e-9)
        known = np.isfinite(at)
        self.timeless += int(len(at) - known.sum())
        slices = np.clip(
            ((at[known] - self._first) / span * self._count).astype(np.int64), 0, self._count - 1
        )
        foreign, wrong = _set(table["out_of_distribution"]), pc.is_valid(table["error_code"]).to_numpy()
        for place, flags in enumerate((np.ones(len(table), bool), ~wrong, foreign, wrong)):
            np.add.at(self._counts[:, place], slices, flags[known])

    def slices(self) -> list[Slice]:
        width = (self._last - self._first) / self._count
        return [
            Slice(self._label(self._first + number * width), *(int(value) for value in counts))
            for number, counts in enumerate(self._counts)
        ]

    def _label(self, at: float) -> str:
        if self._column is None:
            return f"{at:,.0f}"
        return str(np.datetime64(int(at), "s")).replace("T", " ")


def _times(directory: Path, column: str, unit: Unit) -> Times:
    for path in sorted((directory / SHARDS).glob("shard-*.parquet"))[:1]:
        names = pq.read_schema(path).names
        if column not in names:
            raise InputError(RUN, f"did not pass through; there are {', '.join(names)}", f"column {column}")
    return Times.of((table[column] for table in shard_tables(directory, (column,))), column, unit)
