"""The index as a Triton model in Python: the twin of the C++ backend, behind the same contract (docs/triton.md)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from attributary import kernels
from attributary.errors import BundleError, InvalidArgumentError
from attributary.index.faiss_index import FaissIndex

from .host import Outcome, Tensors

_UNIT_TOLERANCE = 1e-3
_SCORED = ("rows", "similarity", "share", "diffuse", "creators", "creator_share", "creator_items")
_CALIBRATION = ("temperature", "threshold", "background")


@dataclass(slots=True)
class _Rows:
    """The queries of a dynamic batch, requests joined."""

    embedding: NDArray[np.float32]  # [Q, D]
    has_prompt: NDArray[np.bool_]  # [Q]
    top_k: NDArray[np.int32]  # [Q]
    top_creators: NDArray[np.int32]  # [Q]
    filters: list[NDArray[np.uint8] | None]  # Q bitmaps


class IndexTwin:
    """Inputs, outputs and parameters as in docs/triton.md. Raises BundleError naming the file at fault."""

    inputs = ("embedding", "has_prompt", "top_k", "top_creators", "filter")

    def __init__(self, parameters: Mapping[str, str], folder: Path) -> None:
        bundle = Path(parameters["bundle"])
        self._bundle_id = np.uint64(int(parameters["bundle_id"], 16))
        self._items, self._dim = int(parameters["items"]), int(parameters["dim"])
        self._candidates = int(parameters["candidates"])
        self._max_top_k = int(parameters["max_top_k"])
        files = {
            "index": bundle / "index.faiss",
            "vectors": bundle / "vectors.npy",
            "rows": folder / "rows.npy",
        }
        for name, path in files.items():
            _check(path, parameters[f"sha256_{name}"])
        self._index = FaissIndex.read(files["index"], int(parameters["nprobe"]), threads=1)
        self._vectors: NDArray[np.float16] = np.load(files["vectors"], mmap_mode="r")
        rows = np.load(files["rows"])
        shape = (self._items, self._dim)
        if (self._index.size, self._index.dim) != shape or self._vectors.shape != shape:
            raise BundleError("index.faiss", f"and vectors.npy must hold {shape[0]} vectors of {shape[1]}")
        if rows.dtype != np.int32 or rows.shape != (2, self._items):
            raise BundleError(
                "rows.npy", f"must be int32 [2, {self._items}], is {rows.dtype} {[*rows.shape]}"
            )
        self._vectors = np.asarray(self._vectors)
        self._creators, self._groups = np.ascontiguousarray(rows[0]), np.ascontiguousarray(rows[1])
        # [2, 3]: without and with a prompt.
        self._calibration = np.array(
            [[float(parameters[f"{name}_{kind}"]) for name in _CALIBRATION] for kind in ("image", "prompt")],
            np.float32,
        )

    def run(self, requests: Sequence[Tensors]) -> list[Outcome]:
        """Answer all queries of all requests together, one search for each distinct filter."""
        outcomes: list[Outcome] = [{} for _ in requests]
        good: list[int] = []
        for number, request in enumerate(requests):
            problem = self._problem(request)
            if problem is None:
                good.append(number)
            else:
                outcomes[number] = problem
        if not good:
            return outcomes
        members = [requests[number] for number in good]
        rows = _joined(members)
        answers = self._answer(rows)
        start = 0
        for number, request in zip(good, members, strict=True):
            end = start + len(request["embedding"])
            wide = {"row": rows.top_k, "similarity": rows.top_k, "share": rows.top_k}
            wide |= dict.fromkeys(("creator", "creator_share", "creator_items"), rows.top_creators)
            outcomes[number] = {
                name: array[start:end, : max(1, int(wide[name][start:end].max()))]
                if name in wide
                else array[start:end]
                for name, array in answers.items()
            }
            start = end
        return outcomes

    def _answer(self, rows: _Rows) -> Tensors:
        count, width = len(rows.embedding), int(rows.top_k.max())
        creators = max(1, int(rows.top_creators.max()))
        out: kernels.Rescored | None = None
        peak = np.zeros(count, np.float32)
        search_ms = rescore_ms = 0.0
        groups = _by_filter(rows.filters)
        for bitmap, members in groups:
            started = perf_counter()
            embedding = rows.embedding if len(groups) == 1 else rows.embedding[members]
            wanted = min(self._items, max(self._candidates, int(rows.top_k[members].max())))
            found = self._candidate_rows(embedding, wanted, bitmap)
            search_ms += (perf_counter() - started) * 1e3
            started = perf_counter()
            scored = self._rescore(rows, members, found, width, creators, bitmap)
            if len(groups) == 1:
                out = scored
            else:
                out = out or kernels.Rescored.empty(count, width, creators)
                for name in _SCORED:
                    getattr(out, name)[members] = getattr(scored, name)
            best = scored.similarity[:, 0]
            if bitmap is not None:
                # Whether a query is foreign is a fact about the query, not about what the filter left over.
                whole = self._index.search(embedding, wanted)
                best = self._rescore(rows, members, whole, 1, 1, None).similarity[:, 0]
            peak[members] = best
            rescore_ms += (perf_counter() - started) * 1e3
        assert out is not None
        if (rows.top_k < width).any():
            beyond = np.arange(width) >= rows.top_k[:, None]
            out.rows[beyond], out.similarity[beyond], out.share[beyond] = -1, 0, 0
        if (rows.top_creators < creators).any():
            beyond = np.arange(creators) >= rows.top_creators[:, None]
            out.creators[beyond] = -1
            out.creator_share[beyond], out.creator_items[beyond] = 0, 0
        return {
            "row": out.rows,
            "similarity": out.similarity,
            "share": out.share,
            "diffuse": out.diffuse[:, None],
            "peak": peak[:, None],
            "creator": out.creators,
            "creator_share": out.creator_share,
            "creator_items": out.creator_items,
            "bundle": np.full((count, 1), self._bundle_id),
            "timing": np.tile(np.array([search_ms, rescore_ms, count], np.float32), (count, 1)),
        }

    def _candidate_rows(
        self, embedding: NDArray[np.float32], count: int, bitmap: NDArray[np.uint8] | None
    ) -> NDArray[np.int64]:
        if bitmap is None:
            return self._index.search(embedding, count)
        passing = np.flatnonzero(np.unpackbits(bitmap, count=self._items, bitorder="little"))
        if passing.size <= count:
            # So few pass that all of them are candidates: exact, and cheaper than a restricted scan.
            return np.ascontiguousarray(
                np.broadcast_to(passing.astype(np.int64), (len(embedding), passing.size))
            )
        return self._index.search(embedding, count, bitmap)

    def _rescore(
        self,
        rows: _Rows,
        members: NDArray[np.int64],
        candidates: NDArray[np.int64],
        top_k: int,
        top_creators: int,
        bitmap: NDArray[np.uint8] | None,
    ) -> kernels.Rescored:
        calibration = self._calibration[rows.has_prompt[members].astype(np.intp)]
        return kernels.rescore(
            rows.embedding if len(members) == len(rows.embedding) else rows.embedding[members],
            candidates,
            self._vectors,
            self._creators,
            self._groups,
            temperature=np.ascontiguousarray(calibration[:, 0]),
            threshold=np.ascontiguousarray(calibration[:, 1]),
            background=np.ascontiguousarray(calibration[:, 2]),
            top_k=top_k,
            top_creators=top_creators,
            allowed=bitmap,
        )

    def _problem(self, request: Tensors) -> InvalidArgumentError | None:
        """Say what is wrong with a request, None if nothing is."""
        most = min(self._max_top_k, self._items)
        for name, least, top in (
            ("top_k", 1, most),
            ("top_creators", 0, self._max_top_k),
            ("has_prompt", 0, 1),
        ):
            wrong = request[name][(request[name] < least) | (request[name] > top)]
            if wrong.size:
                return InvalidArgumentError(name, f"must be from {least} to {top}, got {int(wrong.flat[0])}")
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


def _check(path: Path, expected: str) -> None:
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BundleError(path.name, f"cannot be read: {error.strerror}") from error
    if found != expected:
        raise BundleError(path.name, "has changed since the bundle was verified")


def _joined(requests: Sequence[Tensors]) -> _Rows:
    filters: list[NDArray[np.uint8] | None] = []
    for request in requests:
        bitmap = request.get("filter")
        present = bitmap is not None and bitmap.shape[1] > 0
        filters += list(np.asarray(bitmap)) if present else [None] * len(request["embedding"])

    def column(name: str) -> NDArray[np.int32]:
        columns = [request[name][:, 0] for request in requests]
        return columns[0] if len(columns) == 1 else np.concatenate(columns)

    return _Rows(
        # As it lies in Triton's memory where it is alone.
        embedding=requests[0]["embedding"]
        if len(requests) == 1
        else np.concatenate([request["embedding"] for request in requests]),
        has_prompt=column("has_prompt").astype(bool),
        top_k=column("top_k"),
        top_creators=column("top_creators"),
        filters=filters,
    )


def _by_filter(
    filters: Sequence[NDArray[np.uint8] | None],
) -> list[tuple[NDArray[np.uint8] | None, NDArray[np.int64]]]:
    if all(bitmap is None for bitmap in filters):
        return [(None, np.arange(len(filters)))]
    groups: dict[bytes, list[int]] = {}
    for number, bitmap in enumerate(filters):
        groups.setdefault(b"" if bitmap is None else bitmap.tobytes(), []).append(number)
    return [
        (np.frombuffer(key, np.uint8) if key else None, np.array(members, np.int64))
        for key, members in groups.items()
    ]
