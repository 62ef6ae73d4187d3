"""What capacity.py measures: searches of one shard by size, one hop of the network, re-scoring warm and cold."""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import grpc
import numpy as np
from index import train

from attributary.bundle.bundle import Bundle
from attributary.index.faiss_index import FaissIndex
from attributary.index.planning import Plan, list_count
from attributary.index.tuning import exact_neighbours, recall

Clock = Callable[[], float]
COLD_FILE_BYTES = 2 << 30


@dataclass(frozen=True)
class Shard:
    """One index of `size` items, searched as hard as the bundle's own, and how long its searches take."""

    size: int
    plan: Plan
    nprobe: int
    candidates: int
    recall_at_10: float
    bytes_per_item: float
    index: FaissIndex
    samples: np.ndarray  # [rounds * Q] seconds of a lone query's search


def plan_of(bundle: Bundle, size: int) -> Plan:
    """The bundle's codes with the list count of another size."""
    codes = bundle.manifest.index.factory.split(",", 1)[-1]
    code_bytes = round(bundle_code_bytes(codes))
    lists = list_count(size)
    return Plan(f"IVF{lists},{codes}", code_bytes, lists)


def bundle_code_bytes(codes: str) -> float:
    """Bytes of one item's code: PQ<parts>[x<bits>]."""
    parts, _, bits = codes.removeprefix("PQ").removesuffix("fs").partition("x")
    return int(parts) * int(bits or 8) / 8


def measure_shard(
    vectors: np.ndarray, bundle: Bundle, queries: np.ndarray, clock: Clock, rounds: int = 3
) -> Shard:
    """Build and time an index over `vectors` with the bundle's codes, nprobe and R.

    nprobe is not tuned again: noisy copies lie closer together than new items would, and would ask for less of it. With
    4 * sqrt(N) lists the codes that one search reads still grow with sqrt(N).
    """
    plan = plan_of(bundle, len(vectors))
    raw = train(plan, vectors)
    entry = bundle.manifest.index
    nprobe = min(entry.nprobe, plan.lists)
    index = FaissIndex(raw, nprobe, threads=1)
    some = queries[:200]
    reached = recall(index.search(some, entry.candidates), exact_neighbours(vectors, some, 10))
    samples = search_times(index, queries, entry.candidates, clock, rounds)
    size = len(faiss.serialize_index(raw)) / len(vectors)
    return Shard(len(vectors), plan, nprobe, entry.candidates, reached, size, index, samples)


@dataclass(frozen=True)
class SearchCost:
    """What one search costs by the number of items: the scan of the centroids, then codes, then the rest."""

    nprobe: int
    coarse: dict[int, float]  # lists -> seconds, measured for each
    per_code: float  # seconds
    rest: float  # seconds

    def seconds(self, items: float) -> float:
        """Seconds of the median search of a shard of `items`."""
        lists = list_count(int(items))
        return self.coarse[lists] + self.rest + self.per_code * min(self.nprobe, lists) * items / lists


def measure_cost(
    index: FaissIndex, lists: int, nprobe: int, count: int, queries: np.ndarray, clock: Clock
) -> SearchCost:
    """Cost of a code from searches that probe more and more lists of one index; of centroids from scans of as many.

    `index` is the largest that was built: its codes come from memory, not from a cache.
    """
    probes = [some for some in (nprobe, 2 * nprobe, 4 * nprobe, 8 * nprobe) if some <= lists // 2]
    medians = []
    for some in probes:
        times = []
        for place in range(len(queries)):
            started = clock()
            index.probe(queries[place : place + 1], count, some)
            times.append(clock() - started)
        medians.append(float(np.median(times)))
    scanned = np.array(probes, float) * index.size / lists
    per_code, intercept = np.polyfit(scanned, medians, 1)
    coarse = {1 << power: coarse_time(1 << power, index.dim, nprobe, clock) for power in range(19)}
    return SearchCost(nprobe, coarse, max(float(per_code), 0.0), max(float(intercept) - coarse[lists], 0.0))


def coarse_time(lists: int, dim: int, nprobe: int, clock: Clock) -> float:
    """Median seconds of choosing the nearest of `lists` centroids by a scan, as the index does."""
    rng = np.random.default_rng(2)
    table = faiss.IndexFlatIP(dim)
    for first in range(0, lists, 65_536):
        table.add(rng.standard_normal((min(65_536, lists - first), dim), np.float32))
    faiss.omp_set_num_threads(1)
    query = rng.standard_normal((30, dim)).astype(np.float32)
    times = []
    for place in range(len(query)):
        started = clock()
        table.search(query[place : place + 1], min(nprobe, lists))
        times.append(clock() - started)
    return float(np.median(times[5:]))


def search_times(index: Any, queries: np.ndarray, count: int, clock: Clock, rounds: int) -> np.ndarray:
    """Seconds of each query's search, asked alone; the first round warms up and is dropped. [rounds * Q]."""
    found = []
    for turn in range(rounds + 1):
        for place in range(len(queries)):
            started = clock()
            index.search(queries[place : place + 1], count)
            if turn:
                found.append(clock() - started)
    return np.array(found)


def split_times(bundle: Bundle, shards: int, queries: np.ndarray, clock: Clock) -> np.ndarray:
    """Seconds of every query on every one of `shards` random parts of the bundle, [Q, shards]."""
    part_of = np.random.default_rng(3).permutation(len(bundle.vectors)) % shards
    columns = []
    for part in range(shards):
        vectors = np.ascontiguousarray(bundle.vectors[part_of == part])
        samples = measure_shard(vectors, bundle, queries, clock).samples.reshape(-1, len(queries))
        # The median of the rounds: what belongs to the query, not to the moment.
        columns.append(np.median(samples, axis=0))
    return np.stack(columns, axis=1)


def hop_times(dim: int, count: int, calls: int = 2_000) -> np.ndarray:
    """Seconds of a gRPC call on this machine that carries a query there and `count` ids and distances back."""

    def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
        return bytes(12 * count)

    handler = grpc.method_handlers_generic_handler(
        "shard", {"Search": grpc.unary_unary_rpc_method_handler(answer)}
    )
    server = grpc.server(ThreadPoolExecutor(2), handlers=[handler])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    question = bytes(4 * dim)
    times = []
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/shard/Search")
        for _ in range(calls + 100):
            started = time.perf_counter()
            call(question)
            times.append(time.perf_counter() - started)
    server.stop(0)
    return np.array(times[100:])


def rescore_reads(dim: int, count: int, scratch: Path, queries: int = 200) -> tuple[float, float]:
    """Median seconds to gather `count` random fp16 vectors from a mapped file: (warm, with its pages dropped)."""
    rows = COLD_FILE_BYTES // (2 * dim)
    path = scratch / "vectors.bin"
    block = np.random.default_rng(0).integers(0, 0x3C00, (4_096, dim), dtype=np.uint16)
    with path.open("wb") as file:
        for _ in range(rows // len(block)):
            file.write(block.tobytes())
        file.flush()
        os.fsync(file.fileno())
    rows = rows // len(block) * len(block)
    rng = np.random.default_rng(1)
    asked = [np.sort(rng.choice(rows, count, replace=False)) for _ in range(queries)]
    warm, cold = [], []
    store = np.memmap(path, np.float16, "r", shape=(rows, dim))
    store[:: 4_096 // (2 * dim) or 1].astype(np.float32).sum()
    for rows_asked in asked:
        started = time.perf_counter()
        store[rows_asked].astype(np.float32).sum()
        warm.append(time.perf_counter() - started)
    del store
    with path.open("rb") as file:
        for rows_asked in asked[: queries // 4]:
            # Mapped pages cannot be dropped, so each query maps anew; no read-ahead of what nobody asked for.
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
                mapped.madvise(mmap.MADV_RANDOM)
                part = np.frombuffer(mapped, np.float16).reshape(rows, dim)
                started = time.perf_counter()
                part[rows_asked].astype(np.float32).sum()
                cold.append(time.perf_counter() - started)
                del part
    path.unlink()
    return float(np.median(warm)), float(np.median(cold))


def table_bytes(bundle: Bundle) -> float:
    """Bytes an item of what a gateway holds in memory of items.parquet: ids, codes and text."""
    items = bundle.items
    arrays = [value for value in vars(items).values() if isinstance(value, np.ndarray)]
    text = sum(array.nbytes for array in items._text.values())
    return (sum(array.nbytes for array in arrays) + text) / len(items)
