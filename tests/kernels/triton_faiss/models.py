"""Small index models: vectors in clusters, an index of each kind that a bundle can hold, the index model's config."""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache
from pathlib import Path

import faiss
import numpy as np

from attributary.triton import templates

DIM, ITEMS, LISTS = 64, 4001, 32
# What index planning makes: an exact scan, 8-bit codes, 4-bit fast-scan codes, and those behind a rotation.
KINDS = {
    "flat": "Flat",
    "ivfpq": f"IVF{LISTS},PQ16x6",
    "fastscan": f"IVF{LISTS},PQ32x4fs",
    "rotated": f"IVF{LISTS},PQ32x4fs",
}
CANDIDATES, MAX_TOP_K, NPROBE = 150, 300, 4


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
    """Write `index.faiss`, `vectors.npy` and `rows.npy`; return the values of the index model's template."""
    folder.mkdir()
    np.save(folder / "vectors.npy", vectors(seed=seed))
    (folder / "index.faiss").write_bytes(index_file(kind, seed))
    rng = np.random.default_rng(seed)
    groups = np.arange(ITEMS)
    groups[rng.integers(0, ITEMS, 800)] = rng.integers(0, 100, 800)
    np.save(folder / "rows.npy", np.stack([rng.integers(0, 40, ITEMS), groups]).astype(np.int32))
    values: dict[str, object] = {
        "bundle": folder,
        "bundle_id": hashlib.sha256(f"{kind}{seed}".encode()).hexdigest()[:16],
        "items": ITEMS,
        "dim": DIM,
        "nprobe": 0 if kind == "flat" else NPROBE,
        "candidates": CANDIDATES,
        "max_top_k": MAX_TOP_K,
        "temperature_image": 0.05,
        "threshold_image": 0.001,
        "background_image": 0.7,
        "temperature_prompt": 0.1,
        "threshold_prompt": 0.0,
        "background_prompt": "-inf",
        "backend": "faiss",
        "kind": "KIND_CPU",
        "max_batch": 32,
        "filter_bytes": (ITEMS + 7) // 8,
        "queue_delay_us": 20_000,  # so that concurrent requests do share a batch
        "queue_policy": templates.Block(""),
    }
    for part in ("index.faiss", "vectors.npy", "rows.npy"):
        digest = hashlib.sha256((folder / part).read_bytes()).hexdigest()
        values[f"sha256_{part.split('.')[0]}"] = digest
    return values


def write_model(
    repository: Path, name: str, values: dict[str, object], edit: dict[str, str] | None = None
) -> None:
    """Write one index model; `edit` replaces texts of its config."""
    version = repository / name / "1"
    version.mkdir(parents=True, exist_ok=True)
    bundle = Path(str(values["bundle"]))
    (version / "rows.npy").write_bytes((bundle / "rows.npy").read_bytes())
    warmup = repository / name / "warmup"
    warmup.mkdir(exist_ok=True)
    (warmup / "embedding").write_bytes(queries(1).tobytes())
    (warmup / "one").write_bytes(np.ones(1, "<i4").tobytes())
    text = templates.fill("index/config.pbtxt", {**values, "name": name})
    for old, new in (edit or {}).items():
        assert old in text, old
        text = text.replace(old, new)
    (repository / name / "config.pbtxt").write_text(text)


def write_first_door(repository: Path, target: str) -> None:
    """The launcher wants a model called attribution: a door to `target` is one."""
    text = templates.door((repository / target / "config.pbtxt").read_text(), "attribution", target)
    (repository / "attribution" / "1").mkdir(parents=True)
    (repository / "attribution" / "config.pbtxt").write_text(text)


def parameters(repository: Path, name: str) -> dict[str, str]:
    """The parameters of a model as Triton hands them to a backend."""
    text = (repository / name / "config.pbtxt").read_text()
    return dict(re.findall(r'parameters \{ key: "(\w+)" value \{ string_value: "([^"]*)" \} \}', text))
