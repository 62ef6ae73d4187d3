"""Statements that lie there already: what the one before carried forward, and that nothing is paid a second time.

A statement that lies there counts as paid. Beside one that was brought forward a note says by which run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from attributary.errors import InvalidArgumentError
from attributary.files import write_file
from attributary.plain import json_line

from . import money
from .counted import FILE, Counted

STATEMENT: Final = "payout.json"
_FIELD: Final = "brought_forward"


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
        except (OSError, ValueError, KeyError, TypeError):
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
    except (ValueError, KeyError, TypeError):
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
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}


def _counted(path: Path, digest: str) -> Counted:
    place = path.resolve().with_name(FILE)
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
