"""Small index models: vectors in clusters, an index of each kind that a bundle can hold, the answers."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

import faiss
import numpy as np

from attributary import kernels
from attributary.index.faiss_index import FaissIndex
from attributary.triton import templates

DIM, ITEMS, LISTS = 64, 4001, 32
# What index planning makes: an exact scan, 8-bit codes, 4-bit fast-scan codes, and those behind a rotation.
KINDS = {
    "flat": "Flat",
    "ivfpq": f"IVF{LISTS},PQ16x6",
    "fastscan": f"IVF{LISTS},PQ32x4fs",
    "rotated": f"IVF{LISTS},PQ32x4fs",
}
CANDIDATES, NPROBE = 150, 4


def vectors(count: int = ITEMS, seed: int = 5) -> np.ndarray:
    """Unit rows, fp16 [count, DIM], around 60 centres."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(11).standard_normal((60, DIM))
    rows = centres[rng.integers(0, len(centres), count)] + 0.6 * rng.standard_normal((count, DIM))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)


def queries(count: int, seed: int = 77) -> np.ndarray:
    """Unit rows, float32 [count, DIM], near stored ones."""
    rng = np.random.default_rng(seed)
    rows = vectors()[rng.integers(0, ITEMS, count)].astype(np.float32)
    rows += 0.05 * rng.standard_normal(rows.shape).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@lru_cache
def index_file(kind: str, seed: int) -> bytes:
    """An index over `vectors(seed=seed)`, serialised; training is what takes time."""
    stored = vectors(seed=seed)
    index = faiss.index_factory(DIM, KINDS[kind], faiss.METRIC_INNER_PRODUCT)
    if kind == "rotated":
        rotation = faiss.RandomRotationMatrix(DIM, DIM)
        rotation.init(3)
        index = faiss.IndexPreTransform(rotation, index)
    if kind != "flat":
        inner = faiss.downcast_index(faiss.extract_index_ivf(index))
        inner.cp.niter = inner.pq.cp.niter = 4
        index.train(stored.astype(np.float32))
    index.add(stored.astype(np.float32))
    return bytes(faiss.serialize_index(index))


def write_bundle(folder: Path, kind: str, seed: int = 5) -> dict[str, object]:
    """Write `index.faiss` and `vectors.npy`; return the values of the index model's template."""
    folder.mkdir()
    np.save(folder / "vectors.npy", vectors(seed=seed))
    (folder / "index.faiss").write_bytes(index_file(kind, seed))
    values: dict[str, object] = {
        "backend": "faiss",
        "kind": "KIND_CPU",
        "max_batch": 32,
        "filter_bytes": (ITEMS + 7) // 8,
        "queue_delay_us": 20_000,  # so that concurrent requests do share a batch
        "queue_policy": templates.Block(""),
        "bundle": folder,
        "bundle_id": hashlib.sha256(f"{kind}{seed}".encode()).hexdigest()[:16],
        "items": ITEMS,
        "dim": DIM,
        "nprobe": 0 if kind == "flat" else NPROBE,
        "candidates": CANDIDATES,
    }
    for part in ("index.faiss", "vectors.npy"):
        digest = hashlib.sha256((folder / part).read_bytes()).hexdigest()
        values[f"sha256_{part.split('.')[0]}"] = digest
    return values


def write_model(
    repository: Path, name: str, values: dict[str, object], edit: dict[str, str] | None = None
) -> None:
    """Write one index model; `edit` replaces texts of its config."""
    (repository / name / "1").mkdir(parents=True, exist_ok=True)
    warmup = repository / name / "warmup"
    warmup.mkdir(exist_ok=True)
    (warmup / "embedding").write_bytes(queries(1).tobytes())
    text = templates.fill("index/config.pbtxt", {**values, "name": name})
    for old, new in (edit or {}).items():
        assert old in text, old
        text = text.replace(old, new)
    (repository / name / "config.pbtxt").write_text(text)


def write_attribution(repository: Path, target: str) -> None:
    """Write the model that the launcher wants to find: one that hands everything to `target`."""
    text = templates.alias((repository / target / "config.pbtxt").read_text(), "attribution", target)
    (repository / "attribution" / "1").mkdir(parents=True)
    (repository / "attribution" / "config.pbtxt").write_text(text)


class Embedded:
    """What the embedded engine finds on the same files: its index, then `kernels.rank`."""

    def __init__(self, folder: Path, kind: str) -> None:
        self._index = FaissIndex.read(folder / "index.faiss", NPROBE, threads=1)
        self._vectors = np.load(folder / "vectors.npy")
        self._bundle_id = np.uint64(int(hashlib.sha256(f"{kind}5".encode()).hexdigest()[:16], 16))

    def run(self, tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Answer one request, its queries one by one."""
        asked, filters = tensors["embedding"], tensors.get("filter")
        answers = [
            self._one(query[None], None if filters is None or filters.shape[1] == 0 else filters[number])
            for number, query in enumerate(asked)
        ]
        return {
            "row": np.concatenate([row for row, _ in answers]),
            "similarity": np.concatenate([similarity for _, similarity in answers]),
            "bundle": np.full((len(asked), 1), self._bundle_id),
        }

    def _one(self, query: np.ndarray, bitmap: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        candidates = None
        if bitmap is not None:
            passing = np.flatnonzero(np.unpackbits(bitmap, count=ITEMS, bitorder="little"))
            if passing.size <= CANDIDATES:
                candidates = passing[None]
        if candidates is None:
            candidates = self._index.search(query, CANDIDATES, bitmap)
        return kernels.rank(query, candidates, self._vectors, top_k=CANDIDATES)
