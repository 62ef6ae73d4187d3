"""A change as it is asked for and answered: who, why and when, for the audit; and what became of it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from attributary.bundle.names import check_line
from attributary.errors import AttributaryError, InvalidArgumentError

_MAX_WHO, _MAX_WHY = 200, 2_000


@dataclass(frozen=True, slots=True)
class AddResult:
    """What became of items that were added together: None for each accepted one, else why not."""

    outcomes: list[AttributaryError | None]
    revision: int  # the bundle's
    # Of the change that each item belongs to: an earlier one for an addition that was repeated.
    revisions: list[int]
    held: list[str]  # why an accepted item waits for the operator; empty for those that are searched


@dataclass(frozen=True, slots=True)
class DeleteResult:
    """Ids that are deleted now, and those asked for that were deleted before or never there."""

    ids: tuple[int, ...]
    already: tuple[int, ...]
    unknown: tuple[int, ...]
    revision: int
    held: tuple[int, ...] = ()  # that waited for the operator, and are gone
    # Other names that still have items, and may be the same creator's or licence's.
    similar: tuple[str, ...] = ()
    duplicates: tuple[int, ...] = ()  # that are still there, and near duplicates of the deleted


@dataclass(frozen=True, slots=True)
class CompactResult:
    """The bundle that is in place now, and what the compaction put into it and left out."""

    bundle_id: str
    parent: str  # empty if there was nothing to do
    added: int
    deleted: int


def check_words(who: str, why: str) -> None:
    """Raise InvalidArgumentError unless both are given, short, and one line."""
    for name, value, most in (("who", who, _MAX_WHO), ("why", why, _MAX_WHY)):
        if not value.strip():
            raise InvalidArgumentError(name, "must be given: the audit has it")
        if any("\ud800" <= sign <= "\udfff" for sign in value):
            raise InvalidArgumentError(name, "must be valid Unicode")
        if len(value) > most:
            raise InvalidArgumentError(name, f"has {len(value)} characters, the limit is {most}")
        check_line(value, name)


def now() -> str:
    """The time of a change: ISO 8601, UTC, milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
