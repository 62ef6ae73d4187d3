"""What a bundle that is served holds in memory: an account of its parts, since one of several cannot be measured."""

from __future__ import annotations

import contextlib
from typing import NamedTuple

from attributary.attribution.engine import Engine
from attributary.attribution.prepare import Preparer


class Footprint(NamedTuple):
    """Bytes of one bundle."""

    held: int  # index, items, encoder weights, additions
    mapped: int  # vectors: mapped from a file, the system may drop them


def footprint(engine: Preparer) -> Footprint:
    """Account for an engine: its items always; encoder, index and vectors where it computes in this process."""
    view = engine.view
    bundle, index = view.bundle, view.bundle.manifest.index
    held = bundle.items.nbytes
    # Added vectors are kept in fp16 and in float32.
    held += 3 * view.tail.nbytes
    if view.alive is not None:
        held += view.alive.nbytes
    if not isinstance(engine, Engine):
        return Footprint(held, 0)
    held += round(index.bytes_per_item * len(bundle.vectors))
    with contextlib.suppress(OSError):
        # It may have been replaced on the disk since it was opened.
        held += bundle.encoder_path.stat().st_size
    return Footprint(held, int(bundle.vectors.nbytes))
