"""An aim of shares, never alone: what a constant and the simplest rival reach stands beside it."""

from __future__ import annotations

from typing import Any


def share_aim(
    name: str,
    value: float,
    wanted: float,
    met: bool,
    note: str,
    constant: float | None = None,
    rival: float | None = None,
) -> dict[str, Any]:
    """An aim's row, with what a constant and the simplest rival have; None where the constant is the simplest."""
    return {
        "name": name,
        "value": round(value, 5),
        "constant": None if constant is None else round(constant, 5),
        "rival": None if rival is None else round(rival, 5),
        "aim": wanted,
        "unit": "share",
        "met": bool(met),
        "note": note,
    }
