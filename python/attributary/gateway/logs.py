"""Structured logs on standard error: never a picture, never a prompt."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
from collections.abc import Hashable
from time import monotonic
from typing import Any, Final

import structlog
from grpc import aio

from .config import GatewayConfig

# So many lines of one kind in so many seconds are written; the next window's first line says how many were not.
_BURST: Final = 20
_WINDOW_S: Final = 10.0
# Kinds that are told apart; callers cannot make new ones, defects could.
_MAX_KINDS: Final = 1_000


class Throttle:
    """Counts lines by kind. Safe to call from several threads."""

    def __init__(self) -> None:
        self._windows: dict[Hashable, tuple[float, int]] = {}
        self._lock = threading.Lock()

    def admit(self, kind: Hashable) -> tuple[bool, int]:
        """Say whether a line is written, and how many before it were not."""
        now = monotonic()
        with self._lock:
            since, count = self._windows.get(kind, (now, 0))
            fresh = now - since >= _WINDOW_S
            if len(self._windows) >= _MAX_KINDS and kind not in self._windows:
                self._windows.clear()
            self._windows[kind] = (now, 1) if fresh else (since, count + 1)
            return fresh or count < _BURST, max(0, count - _BURST) if fresh else 0


class _AtARate:
    """Drops lines of a kind that comes too often. A defect keeps its line, and loses its traceback."""

    def __init__(self) -> None:
        self._throttle = Throttle()

    def __call__(
        self, logger: Any, level: str, event: structlog.typing.EventDict
    ) -> structlog.typing.EventDict:
        if level == "debug":
            return event
        kind = (event.get("event"), event.get("method"), event.get("code"), event.get("where"))
        written, unwritten = self._throttle.admit(kind)
        if unwritten:
            event["unwritten"] = unwritten
        if not written:
            if "reference" not in event:
                raise structlog.DropEvent
            event.pop("exc_info", None)
        return event


class _OneLine(logging.Filter):
    """What gRPC says of broken calls: one line without a traceback, at a rate."""

    def __init__(self) -> None:
        super().__init__()
        self._throttle = Throttle()

    def filter(self, record: logging.LogRecord) -> bool:
        """Strip the record, and say whether it is written."""
        record.exc_info = record.exc_text = None
        written, _ = self._throttle.admit(record.msg if isinstance(record.msg, str) else "")
        return written


def configure(config: GatewayConfig) -> None:
    """Set up structlog for the process: JSON lines or a console, from `config.log_level` up."""
    # Tracebacks without local variables: those of a query are what must not be logged.
    renderer: list[structlog.typing.Processor]
    if config.log_format == "json":
        bare = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
        renderer = [structlog.processors.ExceptionRenderer(bare), structlog.processors.JSONRenderer()]
    else:
        bare_text, colors = structlog.dev.plain_traceback, sys.stderr.isatty()
        renderer = [structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=bare_text)]
    level = logging.getLevelNamesMapping()[config.log_level.upper()]
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            _AtARate(),
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    # gRPC and asyncio speak through the standard module; their warnings belong in the same place.
    logging.basicConfig(stream=sys.stderr, level=max(level, logging.WARNING), force=True)
    for name in ("grpc", "grpc._cython.cygrpc"):
        logging.getLogger(name).filters[:] = [_OneLine()]


def loop_problem(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """What asyncio finds no owner for: a call that broke is no event, anything else is told as asyncio does."""
    if not isinstance(context.get("exception"), aio.BaseError | asyncio.CancelledError):
        loop.default_exception_handler(context)
