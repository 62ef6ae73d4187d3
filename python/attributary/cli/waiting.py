"""A line on the terminal for what takes longer than two seconds."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

import click

from attributary.plain import plain

_PATIENCE_S = 2.0


@contextmanager
def said_if_slow(what: str, after_s: float = _PATIENCE_S) -> Iterator[None]:
    """Say on standard error what is being waited for, if it takes long and somebody is looking."""
    if not sys.stderr.isatty():
        yield
        return
    slow = threading.Event()

    def say() -> None:
        slow.set()
        click.echo(f"{plain(what)} ...", err=True)

    timer = threading.Timer(after_s, say)
    timer.daemon = True
    begun = monotonic()
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
    if slow.is_set():
        click.echo(f"done in {monotonic() - begun:.0f} s", err=True)
