"""From a run's creators' totals to a statement: who is paid what of a pool, and what becomes of the rest of it.

A creator's part of the pool is the creator's part of the run: the total of the shares in pictures that are not
out of distribution, divided by the number of answered pictures. What belongs to nobody stays with whoever pays.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import pyarrow as pa

from attributary.bundle.names import names_nobody, same_name
from attributary.errors import InvalidArgumentError, OutputError

from . import money
from .before import Before, Counted, answered_rows, checked, in_sight, of_run, table_of
from .verify import open_receipt

Status = Literal["paid", "carried forward", "excluded", "no payee"]
_SUMMARY, _CREATORS, _RECEIPT = "summary.json", "creators.parquet", "receipt.json"
# Columns of a run's creators: sums of the ends of its answers' intervals; runs from before have none.
_INTERVAL: Final = ("low", "high")


@dataclass(frozen=True, slots=True)
class Terms:
    """What is paid out, and to whom not."""

    pool: Decimal
    currency: str
    minimum: Decimal = Decimal(0)  # whoever is due less is paid later
    excluded: frozenset[str] = frozenset()
    brought: Mapping[str, Decimal] = field(default_factory=dict)  # carried forward by the statement before
    # Excluded, and what was carried forward for them is no longer owed.
    forfeited: frozenset[str] = frozenset()
    before: Before | None = None  # that statement
    ids: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # who creators are, where that is known

    @property
    def digits(self) -> int:
        """Digits behind the point."""
        return money.digits_of(self.currency)


@dataclass(frozen=True, slots=True)
class Line:
    """One creator."""

    creator: str
    ids: tuple[str, ...]  # who that is, as far as it is known
    generations: int
    part: float  # of the pool, in [0, 1]
    interval: tuple[Decimal, Decimal] | None  # of the amount
    amount: Decimal  # of this pool
    brought: Decimal  # from the statement before
    status: Status
    forfeits: bool = False  # what was brought

    @property
    def due(self) -> Decimal:
        """Of this pool and from before."""
        return self.amount + self.brought

    @property
    def paid(self) -> Decimal:
        """What is paid now."""
        return self.due if self.status == "paid" else self.due * 0

    @property
    def carried(self) -> Decimal:
        """What the next statement has to bring forward: who is excluded now is still owed what was owed before."""
        if self.status == "carried forward":
            return self.due
        return self.brought if self.status == "excluded" and not self.forfeits else self.due * 0


@dataclass(frozen=True, slots=True)
class Payout:
    """A statement. The amounts of `lines` and `rest` add up to the pool."""

    terms: Terms
    lines: tuple[Line, ...]  # by descending amount
    rest: tuple[tuple[str, Decimal], ...]  # what goes to no creator, in words
    summary: Mapping[str, Any]  # of the run
    generations: bytes  # which were counted, here and by the statements before (`before.GENERATIONS`)
    repeated: int  # generations of the run whose picture is another's, to the byte
    left: tuple[Before, ...]  # statements beside it whose carried amounts no statement has brought forward

    def total(self, status: Status) -> Decimal:
        """What is due to creators of one status."""
        zero = self.terms.pool * 0
        return sum((line.due for line in self.lines if line.status == status), zero)


def payout(run: Path, terms: Terms) -> Payout:
    """Divide a pool by the totals of a finished run.

    Raises OutputError naming a file of the run that is missing or changed, InvalidArgumentError for a run without
    answers, for an excluded creator whom the run does not know, for one without anything to forfeit, where what is
    brought forward is of the same run, and where a statement before it or beside it counted the same generations.
    """
    summary, table = _read(run)
    answered = summary["answered"]
    if not answered:
        raise InvalidArgumentError("run", "has no answered generation: there is nothing to divide by")
    terms, rows = _spelled_once(terms), _by_creator(table.to_pylist())
    chain = frozenset[str]() if terms.before is None else terms.before.runs
    if summary["run"] in chain:
        raise InvalidArgumentError(
            "brought_forward", "holds amounts of this very run: what it carried forward would be paid twice"
        )
    counted = of_run(run, summary["files"])
    if len(counted) != answered:
        raise OutputError(_SUMMARY, f"says {answered} answered, the run's rows are {len(counted)}")
    if terms.before is not None:
        _refuse_again(run, summary, counted, terms.before, "")
    # Those that brought this run's statement forward come after it.
    beside = [
        one
        for one in in_sight(run, terms.currency, chain)
        if summary["run"] == one.run or summary["run"] not in one.runs
    ]
    for one in beside:
        if one.runs & chain:
            raise InvalidArgumentError(
                "brought_forward",
                f"{one.path} has brought forward amounts of run {min(one.runs & chain)} already: bring that one "
                "forward, or remove it if it was never paid",
            )
        _refuse_again(run, summary, counted, one, ", or remove that statement if it was never paid")
    names = [row["creator"] for row in rows]
    once = terms.before.excluded if terms.before else frozenset[str]()
    if unknown := sorted(terms.excluded.difference(names, terms.brought, once)):
        raise InvalidArgumentError("exclude_creator", f"the run has no creator {unknown[0][:80]!r}")
    if unknown := sorted(terms.forfeited - (terms.excluded & terms.brought.keys())):
        raise InvalidArgumentError(
            "forfeit", f"{unknown[0][:80]!r} must be excluded, and have something brought forward"
        )
    weights = [max(Fraction(0), Fraction(row["share_in_distribution"])) for row in rows]
    rest = _rest(summary, answered - sum(weights, Fraction(0)))
    amounts = money.divide(terms.pool, [*weights, *rest.values()], terms.digits)
    whole = sum(weights, Fraction(0)) + sum(rest.values(), Fraction(0))
    lines = [
        _line(terms, row, amount, weight / whole, whole)
        for row, amount, weight in zip(rows, amounts, weights, strict=False)
    ]
    lines += [
        _line(terms, {"creator": name, "generations": 0}, terms.pool * 0, Fraction(0), whole)
        for name in sorted(terms.brought.keys() - set(names))
    ]
    lines.sort(key=lambda line: (-line.due, line.creator))
    return Payout(
        terms,
        tuple(lines),
        tuple(zip(rest, amounts[len(weights) :], strict=True)),
        summary,
        (counted if terms.before is None else terms.before.counted + counted).file(),
        answered - len(np.unique(counted.picture)),
        tuple(one for one in beside if one.owed and one.taken_by() in ("", summary["run"])),
    )


def _refuse_again(
    run: Path, summary: Mapping[str, Any], counted: Counted, other: Before, else_do: str
) -> None:
    again = counted.among(other.counted)
    if again.any():
        first, _ = next(islice(answered_rows(run, summary["files"]), int(again.argmax()), None))
        raise InvalidArgumentError(
            "run",
            f"{again.sum():,} of its {len(again):,} answered generations, the first {first[:80]!r}, were counted by "
            f"{other.path} or before it and would be paid twice: score the log without them{else_do}",
        )


def as_json(statement: Payout, method: Collection[str]) -> dict[str, Any]:
    """Return a statement as JSON-ready values: amounts are texts, for numbers of JSON are read as binary fractions."""
    terms = statement.terms
    return {
        "run": statement.summary["run"],
        "brought_forward_of": sorted(terms.before.runs if terms.before else ()),
        "brought_forward_sha256": terms.before.sha256 if terms.before else None,
        "generations_sha256": hashlib.sha256(statement.generations).hexdigest(),
        "bundle_id": statement.summary["bundle_id"],
        "currency": terms.currency,
        "pool": str(terms.pool),
        "minimum": str(terms.minimum),
        "excluded": sorted(terms.excluded),
        "paid": str(statement.total("paid")),
        "creators": [
            {
                "creator": line.creator,
                "ids": list(line.ids),
                "generations": line.generations,
                "part": line.part,
                "interval": None if line.interval is None else [str(end) for end in line.interval],
                "amount": str(line.amount),
                "brought_forward": str(line.brought),
                "due": str(line.due),
                "paid": str(line.paid),
                "carried_forward": str(line.carried),
                "status": line.status,
            }
            for line in statement.lines
        ],
        "unattributed": [{"what": what, "amount": str(amount)} for what, amount in statement.rest],
        "method": list(method),
    }


def _spelled_once(terms: Terms) -> Terms:
    """The terms with creators as `same_name` spells them."""
    brought: dict[str, Decimal] = {}
    for name, due in terms.brought.items():
        brought[same_name(name)] = brought.get(same_name(name), terms.pool * 0) + due
    excluded, forfeited = (frozenset(map(same_name, names)) for names in (terms.excluded, terms.forfeited))
    return replace(terms, excluded=excluded, forfeited=forfeited, brought=brought)


def _by_creator(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """A run's rows, those of one creator added up: runs from before may hold a name in several spellings."""
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        row["creator"] = same_name(row["creator"])
        there = found.setdefault(row["creator"], row)
        if there is not row:
            for name in ("share_in_distribution", "generations", *_INTERVAL):
                one, other = there.get(name), row.get(name)
                there[name] = None if one is None or other is None else one + other
    return list(found.values())


def _line(terms: Terms, row: Mapping[str, Any], amount: Decimal, part: Fraction, whole: Fraction) -> Line:
    name = row["creator"]
    brought = terms.brought.get(name, terms.pool * 0)
    due = amount + brought
    status: Status = "paid" if due and due >= terms.minimum else "carried forward"
    if names_nobody(name):
        status = "no payee"
    elif name in terms.excluded:
        status = "excluded"
    low, high = (row.get(end) for end in _INTERVAL)
    interval = None
    if low is not None and high is not None:
        interval = (_bounded(terms, low, whole), _bounded(terms, high, whole))
    return Line(
        name,
        terms.ids.get(name, ()),
        row["generations"],
        float(part),
        interval,
        amount,
        brought,
        status,
        name in terms.forfeited,
    )


def _bounded(terms: Terms, end: float, whole: Fraction) -> Decimal:
    """An end of an interval as an amount."""
    return money.of_pool(terms.pool, min(Fraction(1), max(Fraction(0), Fraction(end) / whole)), terms.digits)


def _rest(summary: Mapping[str, Any], rest: Fraction) -> dict[str, Fraction]:
    """What belongs to no creator, by why; shares are float32, so their sums miss 1 a little."""
    rest = max(Fraction(0), rest)
    foreign = min(rest, Fraction(summary["out_of_distribution"]))
    withheld = min(rest - foreign, Fraction(max(0.0, summary.get("withheld_share", 0.0))))
    return {
        "nobody in particular": rest - foreign - withheld,
        "withheld: items deleted or filtered out": withheld,
        "pictures that resemble nothing known": foreign,
    }


def _read(run: Path) -> tuple[dict[str, Any], pa.Table]:
    try:
        data = (run / _SUMMARY).read_bytes()
    except OSError as error:
        raise OutputError(_SUMMARY, f"cannot be read: {error.strerror}; is {run} a finished run?") from None
    try:
        summary = json.loads(data)
        for name in ("run", "bundle_id", "answered", "out_of_distribution"):
            summary[name]
        table = table_of(checked(run, _CREATORS, summary["files"]))
        table.select(["creator", "share_in_distribution", "generations"])
    except (ValueError, KeyError, TypeError, pa.ArrowException) as error:
        raise OutputError(_SUMMARY, f"is not that of a finished run: {error}") from None
    for name in [name for name in ("share_in_distribution", *_INTERVAL) if name in table.column_names]:
        # An interval may be unknown.
        found = table[name].drop_null() if name in _INTERVAL else table[name]
        if not np.isfinite(found.to_numpy().astype(np.float64)).all():
            raise OutputError(_CREATORS, f"holds a {name} that is no number")
    if (run / _RECEIPT).exists():
        signed = open_receipt((run / _RECEIPT).read_bytes(), None).subjects.get(_SUMMARY)
        if signed != hashlib.sha256(data).hexdigest():
            raise OutputError(_SUMMARY, f"is another one than was signed ({_RECEIPT})")
    return summary, table
