"""Who changes a bundle, why, and when: what the audit is told."""

from __future__ import annotations

from datetime import UTC, datetime

from attributary.bundle.names import check_line
from attributary.errors import InvalidArgumentError

_MAX_WHO, _MAX_WHY = 200, 2_000


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
