"""One index in a process of its own: build it, then search at each setting. Called by search_peers.py, prints JSON.

An engine has `build(vectors)`, `settings`, `set(setting)` and `search(queries, k) -> ids`. Its memory is what the
process holds more than before it was built or opened; the fp32 vectors that all are given alike are not counted.
At 10,000 items what libraries keep for themselves is as large as an index: compare memory from 100,000 on.
"""

# What `Engine` says of its methods holds for every index.
# ruff: noqa: D101, D102

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, ClassVar

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_variable] = os.environ.get("SEARCH_THREADS", "1")

import faiss  # noqa: E402
import numpy as np  # noqa: E402
import psutil  # noqa: E402

from attributary.index.faiss_index import FaissIndex  # noqa: E402
from attributary.index.planning import Plan  # noqa: E402
from attributary.index.tuning import train  # noqa: E402
from attributary.kernels import rank  # noqa: E402

Setting = tuple[int, ...]


def lists_of(size: int) -> int:
    """A power of two near 4 sqrt(N)."""
    return int(2 ** round(np.log2(4 * size**0.5)))


class Engine:
    """What every index offers."""

    settings: ClassVar[list[Setting]] = [()]

    def __init__(self, threads: int, most: int) -> None:
        self.threads, self.most = threads, most

    def build(self, vectors: np.ndarray) -> None:
        raise NotImplementedError

    def set(self, setting: Setting) -> None:
        """Choose how hard to look."""

    def search(self, queries: np.ndarray, k: int) -> np.ndarray:
        raise NotImplementedError


class Written(Engine):
    """Is built in a process of its own and opened, as it would be served."""

    def write(self, path: Path) -> None:
        raise NotImplementedError

    def read(self, path: Path, vectors: np.ndarray) -> None:
        raise NotImplementedError


class Faiss(Written):
    """Any FAISS factory; settings are nprobe and, where the factory refines, the k factor."""

    factory = "Flat"

    def build(self, vectors: np.ndarray) -> None:
        lists = lists_of(len(vectors))
        self.index = faiss.index_factory(
            vectors.shape[1],
            self.factory.format(lists=lists, half=vectors.shape[1] // 2, quarter=vectors.shape[1] // 4),
            faiss.METRIC_INNER_PRODUCT,
        )
        self.index.train(vectors[:: max(1, len(vectors) // 100_000)])
        self.index.add(vectors)

    def write(self, path: Path) -> None:
        faiss.write_index(self.index, str(path))

    def read(self, path: Path, vectors: np.ndarray) -> None:
        self.index = faiss.read_index(str(path))

    def search(self, queries: np.ndarray, k: int) -> np.ndarray:
        return np.asarray(self.index.search(queries, k)[1])


class FaissIvf(Faiss):
    settings: ClassVar = [(8,), (16,), (32,), (64,), (128,), (256,), (512,)]
    factory = "IVF{lists},SQ8"

    def set(self, setting: Setting) -> None:
        faiss.extract_index_ivf(self.index).nprobe = setting[0]


class FaissRefined(FaissIvf):
    settings: ClassVar = [
        (16, 4),
        (32, 4),
        (64, 4),
        (64, 10),
        (128, 4),
        (128, 10),
        (256, 4),
        (256, 10),
        (512, 4),
    ]
    factory = "IVF{lists},PQ{half}x4fs,Refine(SQ8)"

    def set(self, setting: Setting) -> None:
        faiss.extract_index_ivf(self.index.base_index).nprobe = setting[0]
        self.index.k_factor = setting[1]


class FaissRabitq(FaissRefined):
    factory = "IVF{lists},RaBitQfs,Refine(SQ8)"


class FaissHnsw(Faiss):
    settings: ClassVar = [(64,), (128,), (256,), (512,), (1024,)]
    factory = "HNSW32"

    def set(self, setting: Setting) -> None:
        self.index.hnsw.efSearch = setting[0]


class Ours(Written):
    """What a bundle serves: 4-bit codes propose R candidates, the kernel orders them by the fp16 store.

    Shares and creators, which no peer has, are left out.
    """

    settings: ClassVar = [
        *((16, 100), (32, 100), (64, 100), (16, 400), (32, 400), (64, 400), (128, 400), (256, 400)),
        *((128, 1_000), (256, 1_000), (512, 1_000), (128, 2_000), (256, 2_000), (512, 2_000)),
    ]  # fmt: skip
    factory = "IVF{lists},PQ{half}x4fs"
    links = 0

    def build(self, vectors: np.ndarray) -> None:
        size, dim = vectors.shape
        lists = lists_of(size)
        factory = self.factory.format(lists=lists, half=dim // 2, quarter=dim // 4)
        self.store = vectors.astype(np.float16)
        plan = Plan(factory, dim, 0 if self.links else lists, self.links)
        self.index = FaissIndex(train(plan, self.store, 0), lists or 1)

    def write(self, path: Path) -> None:
        self.index.write(path)

    def read(self, path: Path, vectors: np.ndarray) -> None:
        self.index = FaissIndex.read(path, 1, self.threads)
        self.store = vectors.astype(np.float16)

    def set(self, setting: Setting) -> None:
        self.nprobe, self.candidates = setting

    def search(self, queries: np.ndarray, k: int) -> np.ndarray:
        if self.candidates < k:
            raise ValueError("fewer candidates than k")
        found = self.index.probe(queries, self.candidates, self.nprobe)
        return rank(queries, found, self.store, top_k=k, threads=self.threads)[0]


class OursShort(Ours):
    factory = "IVF{lists},PQ{quarter}x4fs"


class OursBytes(Ours):
    """A byte a dimension proposes: near ties are told apart, so few candidates do."""

    settings: ClassVar = [
        *((8, 20), (16, 20), (32, 20), (16, 120), (32, 120), (64, 120), (128, 120), (256, 120)),
        *((64, 1_100), (128, 1_100), (256, 1_100), (512, 1_100)),
    ]  # fmt: skip
    factory = "IVF{lists},SQ8"


class OursBytesAlone(OursBytes):
    """The same lists in their own order, without a store."""

    settings: ClassVar = [(8,), (16,), (32,), (64,), (128,), (256,), (512,)]

    def read(self, path: Path, vectors: np.ndarray) -> None:
        self.index = FaissIndex.read(path, 1, self.threads)

    def set(self, setting: Setting) -> None:
        self.nprobe = setting[0]

    def search(self, queries: np.ndarray, k: int) -> np.ndarray:
        return self.index.probe(queries, k, self.nprobe)


class OursGraph(Ours):
    """The same bytes in a graph; effort, candidates."""

    settings: ClassVar = [
        (20, 20),
        (50, 20),
        (100, 20),
        (100, 100),
        (120, 110),
        (150, 150),
        (200, 150),
        (300, 150),
        (600, 150),
        (1_500, 1_500),
    ]
    factory = "HNSW16,SQ8"
    links = 16


class Hnswlib(Engine):
    settings: ClassVar = [(100,), (200,), (400,), (800,)]

    def build(self, vectors: np.ndarray) -> None:
        import hnswlib

        self.index = hnswlib.Index(space="ip", dim=vectors.shape[1])
        self.index.init_index(max_elements=len(vectors), M=16, ef_construction=200, random_seed=0)
        self.index.add_items(vectors, num_threads=2)

    def set(self, setting: Setting) -> None:
        self.ef = setting[0]

    def search(self, queries: np.ndarray, k: int) -> np.ndarray:
        self.index.set_ef(max(self.ef, k))
        return np.asarray(self.index.knn_query(queries, k=k, num_threads=self.threads)[0]).astype(np.int64)


class Usearch(Engine):
    settings: ClassVar = [(100,), (200,), (400,), (800,)]

    def build(self, vectors: np.ndarray) -> None:
        from usearch.index import Index

        self.index = Index(ndim=vectors.shape[1], metric="ip", dtype="f16", connectivity=16)
        self.index.add(np.arange(len(vectors)), vectors, threads=2)

    def set(self, setting: Setting) -> None:
        self.ef = setting[0]

    def search(self, queries: np.ndarray, k: int) -> np.ndarray:
        self.index.expansion_search = max(self.ef, k)
        keys = self.index.search(queries, k, threads=self.threads).keys
        return np.asarray(keys).reshape(len(queries), -1).astype(np.int64)


class Scann(Engine):
    settings: ClassVar = [(16, 400), (32, 400), (64, 400), (128, 400), (256, 400), (256, 1_000), (256, 2_000)]

    def build(self, vectors: np.ndarray) -> None:
        import scann

        builder = scann.scann_ops_pybind.builder(vectors, 100, "dot_product").set_n_training_threads(2)
        self.index = (
            builder.tree(lists_of(len(vectors)), 64, training_sample_size=100_000)
            .score_ah(2, anisotropic_quantization_threshold=0.2)
            .reorder(1_000)
            .build()
        )

    def set(self, setting: Setting) -> None:
        self.leaves, self.reorder = setting

    def search(self, queries: np.ndarray, k: int) -> np.ndarray:
        ask = self.index.search_batched_parallel if self.threads > 1 else self.index.search_batched
        ids, _ = ask(
            queries, leaves_to_search=self.leaves, pre_reorder_num_neighbors=max(self.reorder, k),
            final_num_neighbors=k,
        )  # fmt: skip
        return np.asarray(ids).astype(np.int64)


class Rabitq(Engine):
    """RaBitQ of 5 bits in inverted lists, no store."""

    settings: ClassVar = [(16,), (32,), (64,), (128,), (256,), (512,)]
    bits = 5

    def build(self, vectors: np.ndarray) -> None:
        import rabitqlib

        lists = lists_of(len(vectors))
        means = faiss.Kmeans(vectors.shape[1], lists, niter=10, seed=0)
        means.train(vectors[:: max(1, len(vectors) // 100_000)])
        cells = means.index.search(vectors, 1)[1][:, 0].astype(np.uint32)
        self.index = rabitqlib.IvfIndex(vectors.shape[1], len(vectors), lists, self.bits, "ip")
        self.index.build(vectors, means.centroids, cells, num_threads=2)

    def set(self, setting: Setting) -> None:
        self.nprobe = setting[0]

    def search(self, queries: np.ndarray, k: int) -> np.ndarray:
        found = self.index.search(queries, k, self.nprobe, num_threads=self.threads)
        ids = next(part for part in found if np.issubdtype(np.asarray(part).dtype, np.integer))
        return np.asarray(ids).reshape(len(queries), -1).astype(np.int64)


ENGINES: dict[str, type[Engine]] = {
    "exact": Faiss,
    "attributary PQ D/2 + fp16": Ours,
    "attributary PQ D/4 + fp16": OursShort,
    "attributary SQ8 + fp16": OursBytes,
    "attributary SQ8": OursBytesAlone,
    "attributary HNSW16 SQ8 + fp16": OursGraph,
    "faiss PQ D/2 + SQ8": FaissRefined,
    "faiss RaBitQ + SQ8": FaissRabitq,
    "faiss SQ8": FaissIvf,
    "faiss HNSW32": FaissHnsw,
    "hnswlib M16": Hnswlib,
    "usearch f16": Usearch,
    "scann": Scann,
    "rabitqlib 5 bits": Rabitq,
}


def tidy() -> None:
    """Give back what was only needed for a while, so that it is not taken for the index's."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def recall(items: np.ndarray, queries: np.ndarray, found: np.ndarray, truth: np.ndarray) -> float:
    """Share of k places that hold an item as near as the k-th nearest: of equal items any is right."""
    k, hits = truth.shape[1], 0
    for query, rows, wanted in zip(queries, found, truth, strict=True):
        last = (items[wanted] @ query).min() - 1e-6
        hits += int((items[np.unique(rows[rows >= 0])] @ query >= last).sum())
    return hits / float(k * len(truth))


def measured(engine: Engine, queries: np.ndarray, k: int, batch: int, seconds: float) -> tuple[float, float]:
    """Queries a second by the wall clock, and by the process's CPU time, over at least `seconds`."""
    done, wall, cpu = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - wall < seconds:
        start = done % (len(queries) - batch + 1)
        engine.search(queries[start : start + batch], k)
        done += batch
    return done / (time.perf_counter() - wall), done / (time.process_time() - cpu)


def main() -> None:
    """Build, then a row a setting, k and batch."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--engine", choices=list(ENGINES), required=True)
    parser.add_argument("--vectors", type=Path, required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--k", type=int, nargs="+", required=True)
    parser.add_argument("--batch", type=int, nargs="+", required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--write", type=Path, help="build, write the index there and end")
    given = parser.parse_args()
    faiss.omp_set_num_threads(2)
    items = np.load(given.vectors / "items.npy", mmap_mode="r")[: given.count].astype(np.float32)
    queries = np.load(given.vectors / "queries.npy")
    truth = np.load(given.vectors / f"exact-{given.count}.npy")
    process = psutil.Process()
    with contextlib.suppress(RuntimeError, ValueError):
        # What a library loads and keeps for itself is no part of an index.
        ENGINES[given.engine](given.threads, max(given.k)).build(items[:1_000])
    tidy()
    before = process.memory_info().rss
    engine = ENGINES[given.engine](given.threads, max(given.k))
    started = time.perf_counter()
    if given.write or not isinstance(engine, Written):
        engine.build(items)
    build_s = time.perf_counter() - started
    if given.write:
        assert isinstance(engine, Written)
        engine.write(given.write)
        print(build_s)
        return
    if isinstance(engine, Written):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "index"
            command = [sys.executable, *sys.argv, "--write", str(path)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            build_s = float(done.stdout.splitlines()[-1])
            engine.read(path, items)
    faiss.omp_set_num_threads(given.threads)
    rows: list[dict[str, Any]] = []
    for setting in engine.settings:
        engine.set(setting)
        for k in given.k:
            try:
                found = np.concatenate(
                    [engine.search(queries[start : start + 100], k) for start in range(0, len(queries), 100)]
                )
            except (RuntimeError, ValueError) as error:
                rows.append({"setting": list(setting), "k": k, "error": str(error)[:120]})
                continue
            hits = recall(items, queries, found, truth[:, :k])
            for batch in given.batch:
                rate, per_cpu = measured(engine, queries, k, batch, given.seconds)
                rows.append(
                    {
                        "setting": list(setting),
                        "k": k,
                        "batch": batch,
                        "recall": float(hits),
                        "queries_s": rate,
                        "queries_cpu_s": per_cpu,
                    }
                )
    tidy()
    grown = process.memory_info().rss - before
    print(json.dumps({"build_s": build_s, "bytes_per_item": grown / given.count, "rows": rows}))


if __name__ == "__main__":
    main()
