"""The index as a Triton model in Python, behind the same contract as the C++ backend (docs/triton.md)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from attributary import kernels
from attributary.errors import BundleError, InvalidArgumentError
from attributary.index.faiss_index import FaissIndex

from .host import Outcome, Tensors, answer_valid, joined, split

_UNIT_TOLERANCE = 1e-3


class IndexModel:
    """Inputs, outputs and parameters as in docs/triton.md. Raises BundleError naming the file at fault."""

    inputs = ("embedding", "filter")

    def __init__(self, parameters: Mapping[str, str], folder: Path) -> None:
        bundle = Path(parameters["bundle"])
        self._bundle_id = np.uint64(int(parameters["bundle_id"], 16))
        self._items, self._dim = int(parameters["items"]), int(parameters["dim"])
        self._width = min(int(parameters["candidates"]), self._items)
        files = {"index": bundle / "index.faiss", "vectors": bundle / "vectors.npy"}
        for name, path in files.items():
            _check(path, parameters[f"sha256_{name}"])
        self._index = FaissIndex.read(files["index"], int(parameters["nprobe"]), threads=1)
        self._vectors: NDArray[np.float16] = np.asarray(
            np.load(files["vectors"], mmap_mode="r", allow_pickle=False)
        )
        shape = (self._items, self._dim)
        if (self._index.size, self._index.dim) != shape or self._vectors.shape != shape:
            raise BundleError("index.faiss", f"and vectors.npy must hold {shape[0]} vectors of {shape[1]}")

    def run(self, requests: Sequence[Tensors]) -> list[Outcome]:
        """Answer all queries of all requests together, one search for each distinct filter."""
        return answer_valid(requests, self._problem, self._run)

    def _run(self, requests: Sequence[Tensors]) -> list[Tensors]:
        embeddings = [request["embedding"] for request in requests]
        filters = [bitmap for request in requests for bitmap in _filters(request)]
        return split(self._answer(joined(embeddings), filters), [len(part) for part in embeddings])

    def _answer(self, embedding: NDArray[np.float32], filters: Sequence[bytes]) -> Tensors:
        count = len(embedding)
        rows = np.full((count, self._width), -1, np.int64)
        similarity = np.zeros((count, self._width), np.float32)
        search_ms = rescore_ms = 0.0
        by_filter: dict[bytes, list[int]] = {}
        for number, bits in enumerate(filters):
            by_filter.setdefault(bits, []).append(number)
        for bits, members in by_filter.items():
            queries = embedding if len(members) == count else embedding[members]
            bitmap = np.frombuffer(bits, np.uint8) if bits else None
            started = perf_counter()
            found = self._candidates(queries, bitmap)
            search_ms += (perf_counter() - started) * 1e3
            started = perf_counter()
            rows[members], similarity[members] = kernels.rank(
                queries, found, self._vectors, top_k=self._width, allowed=bitmap
            )
            rescore_ms += (perf_counter() - started) * 1e3
        return {
            "row": rows,
            "similarity": similarity,
            "bundle": np.full((count, 1), self._bundle_id),
            "timing": np.tile(np.array([search_ms, rescore_ms, count], np.float32), (count, 1)),
        }

    def _candidates(
        self, embedding: NDArray[np.float32], bitmap: NDArray[np.uint8] | None
    ) -> NDArray[np.int64]:
        if bitmap is None and self._width == self._items:
            return np.broadcast_to(np.arange(self._items), (len(embedding), self._items))
        if bitmap is not None:
            passing = np.flatnonzero(np.unpackbits(bitmap, count=self._items, bitorder="little"))
            if passing.size <= self._width:
                # So few pass that all of them are candidates: exact, and cheaper than a restricted scan.
                return np.broadcast_to(passing.astype(np.int64), (len(embedding), passing.size))
        return self._index.search(embedding, self._width, bitmap)

    def _problem(self, request: Tensors) -> InvalidArgumentError | None:
        """Say what is wrong with a request, None if nothing is."""
        length = np.sqrt(np.square(request["embedding"], dtype=np.float64).sum(axis=1))
        if not (np.abs(length - 1) <= _UNIT_TOLERANCE).all():
            at = int(np.argmin(np.abs(length - 1) <= _UNIT_TOLERANCE))
            return InvalidArgumentError(
                "embedding", f"row {at} must be finite and of length 1, is {length[at]:.4g}"
            )
        bitmap = request.get("filter")
        wanted = (self._items + 7) // 8
        if bitmap is not None and bitmap.shape[1] not in (0, wanted):
            return InvalidArgumentError("filter", f"must have {wanted} bytes or none, got {bitmap.shape[1]}")
        return None


def _filters(request: Tensors) -> list[bytes]:
    """The bitmap of each query, nothing where it has none."""
    bitmap = request.get("filter")
    if bitmap is None or bitmap.shape[1] == 0:
        return [b""] * len(request["embedding"])
    return [row.tobytes() for row in np.asarray(bitmap)]


def _check(path: Path, expected: str) -> None:
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BundleError(path.name, f"cannot be read: {error.strerror}") from error
    if found != expected:
        raise BundleError(path.name, "has changed since the bundle was verified")
