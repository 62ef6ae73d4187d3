"""Waiting for an engine that is full or away, but not for ever."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from attributary.errors import DeadlineError, OverloadedError, UnavailableError

T = TypeVar("T")

_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 5.0


def patiently(
    ask: Callable[[], T],
    patience_s: float,
    *,
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], None] = time.sleep,
) -> T:
    """Ask until there is an answer; raises UnavailableError after `patience_s` seconds of refusals."""
    until = clock() + patience_s
    wait = _FIRST_PAUSE_S
    while True:
        try:
            return ask()
        except (UnavailableError, OverloadedError, DeadlineError) as error:
            asked_for = error.retry_after_s if isinstance(error, OverloadedError) else 0.0
            delay = min(max(wait, asked_for), _LONGEST_PAUSE_S)
            if clock() + delay > until:
                raise UnavailableError(f"the engine gave no answer for {patience_s:g} s: {error}") from error
            pause(delay)
            wait *= 2
