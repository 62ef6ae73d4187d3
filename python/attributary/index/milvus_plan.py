"""From the bundle's FAISS index to the parameters of a Milvus index of the same family.

Milvus trains one index a sealed segment, not one a collection. Lists are therefore planned for a segment, and the
probes keep the share of the items that the bundle's tuning settled on.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import ceil
from typing import Literal

from attributary.bundle.manifest import IndexEntry
from attributary.errors import InvalidArgumentError, check_range

from .planning import list_count

IndexType = Literal["FLAT", "IVF_PQ", "GPU_BRUTE_FORCE", "GPU_IVF_PQ"]
Choice = Literal["auto", "gpu", "flat"]
CHOICES: tuple[Choice, ...] = ("auto", "gpu", "flat")

# What one search may return: `proxy.maxTopK` of Milvus by default, and the limit of its GPU indexes.
MAX_LIMIT = 16_384
MAX_GPU_LIMIT = 1_024
_MAX_LISTS = 65_536
# Milvus seals a segment at 1 GiB by default (dataCoord.segment.maxSize); its rows are the float32 vectors.
SEGMENT_BYTES = 1 << 30
# cuVS packs 4- to 8-bit codes; FAISS on CPU goes further, but no plan of ours does.
_GPU_BITS = range(4, 9)
_FACTORY = re.compile(r"(?:OPQ\d+(?:_\d+)?,)?IVF(?P<lists>\d+),PQ(?P<parts>\d+)(?:x(?P<bits>\d+))?(?:fs)?")


@dataclass(frozen=True, slots=True)
class MilvusPlan:
    """One Milvus index. `build` and `search` are what Milvus calls `params`."""

    index_type: IndexType
    lists: int  # nlist of a segment, 0 without lists
    probes: int  # nprobe of a segment, 0 without lists
    parts: int  # sub-quantisers m, 0 without codes
    bits: int  # of one sub-quantiser's code
    limit: int  # the most rows that one search may return

    @property
    def build(self) -> dict[str, int]:
        """Parameters of create_index."""
        return {"nlist": self.lists, "m": self.parts, "nbits": self.bits} if self.lists else {}

    def search(self, probes: int | None = None) -> dict[str, int]:
        """Parameters of a search; `probes` in place of the planned ones, at most every list."""
        if not self.lists:
            return {}
        return {"nprobe": min(self.lists, self.probes if probes is None else probes)}


def plan_milvus(
    entry: IndexEntry, items: int, dim: int, choice: Choice = "auto", segment_rows: int | None = None
) -> MilvusPlan:
    """Choose the Milvus index for a bundle.

    "auto" is IVF_PQ where the bundle's index has lists, else an exact scan; "gpu" the same on GPUs; "flat" always
    scans, which is all that milvus-lite can do. `segment_rows` are the rows of a sealed segment; None derives them
    from Milvus's default of 1 GiB. A learned rotation (OPQ) has no counterpart in Milvus and is left out. Raises
    InvalidArgumentError naming what Milvus cannot take.
    """
    if choice not in CHOICES:
        raise InvalidArgumentError("index_type", f"must be one of {', '.join(CHOICES)}, got {choice!r}")
    if segment_rows is not None:
        check_range("segment_rows", segment_rows, 1)
    gpu = choice == "gpu"
    limit = MAX_GPU_LIMIT if gpu else MAX_LIMIT
    if entry.candidates > limit:
        raise InvalidArgumentError(
            "index.candidates",
            f"this bundle re-scores {entry.candidates} candidates, Milvus returns at most {limit} "
            f"{'from a GPU index' if gpu else ''}".rstrip(),
        )
    if choice == "flat" or entry.factory == "Flat":
        return MilvusPlan("GPU_BRUTE_FORCE" if gpu else "FLAT", 0, 0, 0, 0, limit)
    found = _FACTORY.fullmatch(entry.factory)
    if found is None:
        raise InvalidArgumentError("index.factory", f"{entry.factory!r} has no counterpart in Milvus")
    lists, parts, bits = int(found["lists"]), int(found["parts"]), int(found["bits"] or 8)
    if dim % parts:
        raise InvalidArgumentError("index.factory", f"{parts} sub-quantisers do not divide {dim} dimensions")
    if gpu and (bits not in _GPU_BITS or parts * bits % 8):
        raise InvalidArgumentError(
            "index.factory",
            f"GPU_IVF_PQ takes codes of whole bytes from 4- to 8-bit parts, got {parts} parts of {bits} bits",
        )
    of_segment = _segment_lists(lists, items, segment_rows or SEGMENT_BYTES // (4 * dim))
    probes = max(1, ceil(max(1, entry.nprobe) / lists * of_segment))
    return MilvusPlan("GPU_IVF_PQ" if gpu else "IVF_PQ", of_segment, probes, parts, bits, limit)


def _segment_lists(lists: int, items: int, segment_rows: int) -> int:
    wanted = lists if items <= segment_rows else min(lists, list_count(segment_rows))
    return min(_MAX_LISTS, wanted)
