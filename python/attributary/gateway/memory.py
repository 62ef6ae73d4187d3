"""What a bundle that is served holds in memory: an account of its parts, since one of several cannot be measured."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Final, NamedTuple

from attributary.attribution.engine import Engine
from attributary.attribution.prepare import Preparer
from attributary.errors import PreconditionError

# The bundle's files that are read into memory.
_HELD: Final = ("index.faiss", "encoder.onnx", "items.parquet")


class Footprint(NamedTuple):
    """Bytes of one bundle."""

    held: int  # index, items, encoder weights, additions
    mapped: int  # vectors: mapped from a file, the system may drop them


def check_room(place: Path) -> None:
    """Raise PreconditionError if a bundle's directory would not fit into the memory that is left.

    What is mapped does not count. An unknown limit is none.
    """
    needed = sum((place / name).stat().st_size for name in _HELD if (place / name).is_file())
    left = available()
    if left is not None and needed > left:
        raise PreconditionError(
            "memory",
            f"the bundle needs about {needed >> 20} MiB, {left >> 20} MiB are left; unload another one first",
        )


def available() -> int | None:
    """Bytes of memory that this process may still take: of the machine, or of its cgroup; None if nobody knows."""
    known = []
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        known.append(int(next(line for line in lines if line.startswith("MemAvailable:")).split()[1]) << 10)
    with contextlib.suppress(OSError, ValueError):
        group = Path("/sys/fs/cgroup")
        # "max" where there is none: that is no number.
        most = int((group / "memory.max").read_text())
        known.append(max(0, most - int((group / "memory.current").read_text())))
    return min(known, default=None)


def footprint(engine: Preparer) -> Footprint:
    """Account for an engine: its items always; encoder, index and vectors where it computes in this process."""
    snapshot = engine.snapshot
    bundle, index = snapshot.bundle, snapshot.bundle.manifest.index
    held = bundle.items.nbytes
    # Added vectors are kept in fp16 and in float32.
    held += 3 * snapshot.added.nbytes
    if snapshot.alive is not None:
        held += snapshot.alive.nbytes
    if not isinstance(engine, Engine):
        return Footprint(held, 0)
    held += round(index.bytes_per_item * len(bundle.vectors))
    with contextlib.suppress(OSError):
        # It may have been replaced on the disk since it was opened.
        held += bundle.encoder_path.stat().st_size
    return Footprint(held, int(bundle.vectors.nbytes))
