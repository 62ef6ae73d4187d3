"""What a bundle directory becomes before it is served. Imports no gRPC: that is imported while bundles open."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from attributary.attribution.prepare import Preparer
from attributary.delta.store import Store


@dataclass(frozen=True, slots=True)
class Opened:
    """A bundle that may be served: its engine, and what changes it (None: nothing does)."""

    engine: Preparer
    store: Store | None = None


OpenBundle: TypeAlias = Callable[[Path], Opened]
