"""Times of a log's column as seconds since 1970: timestamps, dates, ISO 8601 texts, and numbers of any unit."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from attributary.errors import InputError

from .run import RUN
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
