"""How long a piece of work may still take: told once at the top, read where something is waited for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from time import monotonic

_AT: ContextVar[float] = ContextVar("attributary_deadline", default=float("inf"))


@contextmanager
def until(at: float) -> Iterator[None]:
    """Within this context work must end by `at`, in seconds on the monotonic clock; infinity lifts the deadline."""
    token = _AT.set(at)
    try:
        yield
    finally:
        _AT.reset(token)


def remaining() -> float:
    """Seconds until the deadline of the current context: infinity without one, below 0 once it has passed."""
    return _AT.get() - monotonic()
