"""How far a run is, and when it is plainly wrong: the same on one machine and on Ray."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from attributary.errors import RunError

from .rows import Shard
from .run import Run

# The rate says nothing about fewer rows.
_ENOUGH_ROWS = 100


@dataclass(slots=True)
class Counts:
    """How far a run is. `rows` includes those that were committed before this process began."""

    total: int
    rows: int = 0
    errors: int = 0
    resumed: int = 0  # rows that were there already


Progress = Callable[[Counts], None]


class ErrorRate:
    """Stops a run that is plainly wrong: more than `most` of its rows are error rows, counted from 100 rows on."""

    def __init__(self, most: float) -> None:
        self._most = most

    def check(self, counts: Counts) -> None:
        """Raise RunError naming the rate."""
        if counts.errors > self._most * max(counts.rows, _ENOUGH_ROWS):
            raise RunError(
                "max_error_rate",
                f"{counts.errors} of the first {counts.rows} rows are error rows, more than {self._most:.1%}; see "
                "error_message in the shards that are there, and raise the rate if they are right",
            )


class Tally:
    """Counts of a run from what is committed on. `missing` are the shards that are still to be made, in order.

    Raises RunError, here or in `add`, as soon as more than `max_error_rate` of the rows are error rows.
    """

    def __init__(self, run: Run, max_error_rate: float, progress: Progress) -> None:
        there = run.committed()
        self.missing = [shard for shard in run.plan.shards if shard.number not in there]
        resumed = sum(shard.rows for shard in run.plan.shards if shard.number in there)
        self.counts = Counts(run.plan.rows, rows=resumed, errors=sum(there.values()), resumed=resumed)
        self._rate, self._progress = ErrorRate(max_error_rate), progress
        self._rate.check(self.counts)
        progress(self.counts)

    def add(self, shard: Shard, errors: int) -> None:
        """Count a shard that was committed with so many error rows."""
        self.counts.rows += shard.rows
        self.counts.errors += errors
        self._progress(self.counts)
        self._rate.check(self.counts)
