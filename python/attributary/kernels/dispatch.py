"""Chooses the path that the kernels run on: the best instruction set of the machine, or the one that was forced."""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Final

from ..errors import InvalidArgumentError
from .types import CALIBRATION

VARIABLE: Final = "ATTRIBUTARY_KERNELS"
LEVELS: Final = ("portable", "avx2", "avx512")
NUMPY: Final = "numpy"
# Measured by benchmarks/kernels.py at 512 -> 224 pixels, and at R = 10,000 and D = 512.
SLOWER: Final = "preprocessing about 10 times, re-scoring about 15 times slower"


class KernelArgumentError(ValueError):
    """An argument of a kernel is wrong; `field` names it. A defect of the code that calls, not of a server's caller."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field


class KernelsFallbackWarning(UserWarning):
    """The compiled kernels could not be loaded; NumPy and Pillow do their work, slower."""


@dataclass(frozen=True, slots=True)
class KernelsInfo:
    """Which path the kernels take in this process."""

    isa: str  # "avx512", "avx2", "portable" or "numpy"
    available: tuple[str, ...]  # every path that can be forced here
    forced: bool  # whether ATTRIBUTARY_KERNELS chose the path
    reason: str  # why the extension could not be loaded; empty where it was


@functools.cache
def native() -> tuple[ModuleType | None, str]:
    """Return the compiled extension, or None and the reason why it cannot be loaded."""
    try:
        from . import _native  # type: ignore[attr-defined, unused-ignore]
    except ImportError as error:
        return None, str(error)
    if getattr(_native, "calibration_columns", 0) != len(CALIBRATION) or not hasattr(_native, "scan"):
        return None, "it was built from other sources than these; build it again"
    return _native, ""


@functools.cache
def available() -> tuple[str, ...]:
    """Return every path that can be taken here, slowest first."""
    module, _ = native()
    if module is None:
        return (NUMPY,)
    return (NUMPY, *LEVELS[: LEVELS.index(module.best_isa()) + 1])


def active() -> str:
    """Return the path to take now; the environment variable is read at every call.

    Raises InvalidArgumentError where the variable names a path that this machine or build lacks.
    """
    wanted = os.environ.get(VARIABLE, "")
    if wanted:
        if wanted not in available():
            raise InvalidArgumentError(
                VARIABLE,
                f"{wanted!r} cannot be had here; choose one of {', '.join(available())}, or unset it",
            )
        return wanted
    best = available()[-1]
    if best == NUMPY:
        _warn_once()
    return best


def reply_writer() -> Callable[..., bytes] | None:
    """Return what puts the bytes of a reply together, None where NumPy takes over; see attributary.gateway.reply."""
    module, _ = native()
    return None if module is None or active() == NUMPY else module.reply


def info() -> KernelsInfo:
    """Tell which path the kernels take, and why."""
    _, reason = native()
    return KernelsInfo(active(), available(), bool(os.environ.get(VARIABLE, "")), reason)


@functools.cache
def _warn_once() -> None:
    warnings.warn(
        f"the compiled kernels cannot be loaded ({native()[1]}); NumPy and Pillow take over: {SLOWER}",
        KernelsFallbackWarning,
        stacklevel=4,
    )
