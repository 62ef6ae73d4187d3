"""Structured logs on standard error: never a picture, never a prompt."""

from __future__ import annotations

import logging
import sys

import structlog

from .config import GatewayConfig


def configure(config: GatewayConfig) -> None:
    """Set up structlog for the process: JSON lines or a console, from `config.log_level` up."""
    # Tracebacks without local variables: those of a query are what must not be logged.
    renderer: list[structlog.typing.Processor]
    if config.log_format == "json":
        renderer = [
            structlog.processors.ExceptionRenderer(
                structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
            ),
            structlog.processors.JSONRenderer(),
        ]
    else:
        renderer = [
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
            )
        ]
    level = logging.getLevelNamesMapping()[config.log_level.upper()]
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    # gRPC and asyncio speak through the standard module; their warnings belong in the same place.
    logging.basicConfig(stream=sys.stderr, level=max(level, logging.WARNING), force=True)
