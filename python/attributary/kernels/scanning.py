"""Inverted lists of 8-bit codes, scanned in whole numbers: the typed face of the scan kernel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .dispatch import NUMPY, active, native
from .types import BoolBitmap, Float32Array, Int64Array


@dataclass(frozen=True, slots=True)
class ByteLists:
    """Inverted lists whose items are a byte a dimension. The memory at the addresses is another's and must stay."""

    codes: NDArray[np.uint64]  # [L] address of each list's codes, uint8 [size, D]
    rows: NDArray[np.uint64]  # [L] address of each list's rows, int64 [size], below 2^31
    sizes: Int64Array  # [L]
    dim: int  # D


def can_scan(dim: int) -> bool:
    """Whether `scan` can be had in this process for so many dimensions."""
    module = native()[0]
    return module is not None and active() != NUMPY and dim <= module.most_dim


def scan(
    lists: ByteLists,
    weights: Float32Array,
    probes: Int64Array,
    base: Float32Array,
    *,
    count: int,
    allowed: BoolBitmap | None = None,
    threads: int = 1,
) -> Int64Array:
    """The `count` best rows of each query among the lists it probes, int64 [Q, count], best first, -1 for none.

    | argument | dtype, shape | meaning |
    | --- | --- | --- |
    | weights | float32 [Q, D] | finite; rounded to 16 bits beside the largest of a query |
    | probes | int64 [Q, P] | lists; negative: none |
    | base | float32 [Q, P] | similarity of an item in that list is base + sum of weights x codes |
    | allowed | uint8 [ceil(N / 8)] | bitmap over rows, least significant bit first: no others are met |

    Equal similarities come by ascending row. What a query finds does not depend on what else is in the batch. A list
    is read once for up to 32 queries. `threads` share the batch (0: one a core). The GIL is released. Nothing is
    converted: raises TypeError for a wrong dtype, ValueError for a wrong shape, a list that is not there, or weights
    that are not finite.
    """
    module = native()[0]
    assert module is not None, "asked for without can_scan"
    found = np.empty((len(weights), count), np.int64)
    met = 0 if allowed is None else 8 * len(allowed)
    module.scan(
        lists.codes, lists.rows, lists.sizes, weights, probes, base, allowed, met, found, active(), threads
    )
    return found
