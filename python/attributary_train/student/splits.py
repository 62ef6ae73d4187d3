"""Which part of the data a thing belongs to: nothing that a head is fitted or chosen on is ever reported on."""

from __future__ import annotations

import hashlib
from typing import Literal

Split = Literal["fit", "validation", "test"]


def split_of(name: str) -> Split:
    """Put a name (an item's id, a concept) into a part, for good: 60% fit, 20% validation, 20% test."""
    tenth = hashlib.sha256(name.encode()).digest()[0] * 10 // 256
    if tenth < 6:
        return "fit"
    return "validation" if tenth < 8 else "test"


def sample_order(name: str) -> bytes:
    """Sort by this to draw the same sample on every machine, whatever else the data holds."""
    return hashlib.sha256(f"sample {name}".encode()).digest()
