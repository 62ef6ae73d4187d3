"""From a budget to FAISS factory strings: nobody should have to know nlist, M and nprobe to build a good index.

And from the bundle's FAISS index to the parameters of a Milvus index of the same family. Milvus trains one index a
sealed segment, not one a collection. Lists are therefore planned for a segment, and the probes keep the share of the
items that the bundle's tuning settled on.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from typing import Literal

from attributary.bundle.manifest import IndexEntry
from attributary.errors import InvalidArgumentError, check_range

Target = Literal["cpu", "gpu"]

# Below this many items an exact scan is as fast as a probe, and a quantiser would be poorly trained.
FLAT_BELOW = 5_000
# FAISS asks for 39 training points a centroid; a list count that starves its quantiser costs recall.
_POINTS_PER_CENTROID = 39
# What FAISS's classic GPU IVF-PQ has kernels for; above 48 only with fp16 lookup tables.
# Of a graph's item: where its links begin, its floor, and links on higher floors on average.
_GRAPH_BYTES = 24
_LINKS = (16, 32)
GPU_SUBQUANTISERS = (1, 2, 3, 4, 8, 12, 16, 20, 24, 28, 32, 40, 48, 56, 64, 96)
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
class IndexBudget:
    """What the index may cost and must reach."""

    bytes_per_item: float = 128.0  # codes and ids of the index file, not the fp16 store beside it
    target_recall: float = 0.98  # recall@`recall_at` after re-scoring
    max_candidates: int = 2_000  # R at most
    target: Target = "cpu"
    min_candidates: int = 1  # R at least, where shares were calibrated with so many
    recall_at: int = 10  # of how many nearest items so large a share must be found

    def __post_init__(self) -> None:
        if not 0 < self.target_recall <= 1:
            raise InvalidArgumentError("target_recall", f"must be in (0, 1], got {self.target_recall}")
        if self.bytes_per_item < 12:
            raise InvalidArgumentError(
                "bytes_per_item", f"must be at least 12 (8 of them are the id), got {self.bytes_per_item}"
            )
        check_range("max_candidates", self.max_candidates, 10, 20_000)
        if not 1 <= self.recall_at <= self.max_candidates:
            raise InvalidArgumentError(
                "recall_at", f"must be from 1 to max_candidates {self.max_candidates}, got {self.recall_at}"
            )
        if not 1 <= self.min_candidates <= self.max_candidates:
            raise InvalidArgumentError(
                "min_candidates",
                f"must be from 1 to max_candidates {self.max_candidates}, got {self.min_candidates}",
            )
        if self.target not in ("cpu", "gpu"):
            raise InvalidArgumentError("target", f"must be cpu or gpu, got {self.target!r}")


@dataclass(frozen=True, slots=True)
class Plan:
    """One index to try. `code_bytes` is the size of one item's code."""

    factory: str
    code_bytes: int
    lists: int  # 0 for an exact scan, and for a graph
    links: int = 0  # of an item of a graph (HNSW), on its lowest floor twice as many; 0: no graph

    @property
    def family(self) -> str:
        """Plans of one family differ in the length of their codes, or in their links."""
        return "graph" if self.links else self.factory.rpartition(",")[2].rstrip("0123456789xfs")

    @property
    def bytes(self) -> bool:
        """Whether these are lists of a byte a dimension."""
        return bool(self.lists) and self.factory.endswith(",SQ8")

    @property
    def held_bytes(self) -> int:
        """Bytes that an item's code and links take, without its id."""
        return self.code_bytes + (8 * self.links + _GRAPH_BYTES if self.links else 0)


def plans(items: int, dim: int, budget: IndexBudget) -> Iterator[Plan]:
    """Yield indexes within the budget, the shortest codes first; an exact scan for small corpora.

    CPU: 4-bit codes for fast-scan, two a byte; where the budget has room, a byte a dimension in lists (SQ8), and the
    same in a graph (HNSW), which tells near ties apart that no short code does. GPU: 8-bit codes with a sub-quantiser
    count that the GPU has kernels for. The largest product quantiser's OPQ variant is last: a learned rotation costs
    minutes of training and is worth trying where everything else has failed.
    """
    if items < FLAT_BELOW:
        yield Plan("Flat", 4 * dim, 0)
        return
    lists = list_count(items)
    room = budget.bytes_per_item - 8
    found = [plan for plan in _code_plans(dim, lists, budget.target) if plan.held_bytes <= room]
    if not found:
        raise InvalidArgumentError(
            "bytes_per_item",
            f"no {budget.target} product quantiser of {dim} dimensions fits {budget.bytes_per_item:g} bytes an item",
        )
    yield from found
    if budget.target == "cpu":
        whole = [Plan(f"IVF{lists},SQ8", dim, lists), *(Plan(f"HNSW{m},SQ8", dim, 0, m) for m in _LINKS)]
        yield from (plan for plan in whole if plan.held_bytes <= room)
    largest = found[-1]
    subquantisers = largest.factory.split("PQ", 1)[1].split("x", 1)[0]
    yield Plan(f"OPQ{subquantisers}_{dim},{largest.factory}", largest.code_bytes, lists)


def list_count(items: int) -> int:
    """A power of two near 4 * sqrt(N), small enough that every list's centroid has its training points."""
    most = max(1, items // _POINTS_PER_CENTROID)
    lists = 1
    while lists * 2 <= min(most, 4 * items**0.5):
        lists *= 2
    return lists


def _code_plans(dim: int, lists: int, target: Target) -> Iterator[Plan]:
    if target == "cpu":
        for width in (16, 8, 6, 4, 3, 2):
            # Fast-scan packs sub-quantisers in pairs.
            if dim % width == 0 and (dim // width) % 2 == 0:
                parts = dim // width
                yield Plan(f"IVF{lists},PQ{parts}x4fs", parts // 2, lists)
    else:
        for parts in GPU_SUBQUANTISERS:
            if parts >= 8 and dim % parts == 0:
                yield Plan(f"IVF{lists},PQ{parts}", parts, lists)


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
