"""The core: a batch's whole way, readable top to bottom. Knows no transport.

prepare (per query, any thread; prepare.py): decode -> resize and crop -> tokenise
run (per batch): encode -> candidates from the index -> exact re-scoring, shares, creator totals -> captions
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from attributary import kernels
from attributary.bundle.bundle import Bundle
from attributary.encoder.base import Encoder
from attributary.index.base import VectorIndex

from .answers import assemble
from .filters import Allowed
from .prepare import Preparer, ms_since
from .types import Attribution, Filter, Limits, Options, Prepared, Query


class Engine(Preparer):
    """Answers queries from one open bundle. Safe to call from several threads."""

    def __init__(
        self, bundle: Bundle, encoder: Encoder, index: VectorIndex, limits: Limits | None = None
    ) -> None:
        super().__init__(bundle, encoder.spec, limits)
        self.encoder = encoder
        self.index = index

    def run(self, batch: Sequence[Prepared]) -> list[Attribution]:
        """Answer prepared queries together; one Attribution for each, in their order."""
        if not batch:
            return []
        embeddings, encode_ms = self._encode(batch)
        for prepared in batch:
            prepared.timings.batch_size = len(batch)
        by_filter: dict[Filter, list[int]] = defaultdict(list)
        for position, prepared in enumerate(batch):
            if prepared.embedding is None:
                prepared.timings.encode = encode_ms
            by_filter[prepared.filter].append(position)
        answers: list[Attribution | None] = [None] * len(batch)
        for filter_, positions in by_filter.items():
            members = [batch[position] for position in positions]
            for position, answer in zip(
                positions, self._attribute(members, embeddings[positions], filter_), strict=True
            ):
                answers[position] = answer
        return [answer for answer in answers if answer is not None]

    def attribute(self, query: Query, options: Options | None = None) -> Attribution:
        """Answer one query: `prepare` and `run`."""
        return self.run([self.prepare(query, options)])[0]

    def embed(self, batch: Sequence[Prepared]) -> NDArray[np.float32]:
        """Return the unit vectors of prepared queries, float32 [B, D]."""
        return self._encode(batch)[0]

    def _encode(self, batch: Sequence[Prepared]) -> tuple[NDArray[np.float32], float]:
        embeddings = np.empty((len(batch), self.encoder.spec.dim), np.float32)
        pictures: list[NDArray[np.uint8]] = []
        positions: list[int] = []
        for position, prepared in enumerate(batch):
            if prepared.embedding is not None:
                embeddings[position] = prepared.embedding
            else:
                assert prepared.pixels is not None
                pictures.append(prepared.pixels)
                positions.append(position)
        if not positions:
            return embeddings, 0.0
        started = perf_counter()
        ids, mask = self.tokenizer.pad([batch[position].tokens for position in positions])
        embeddings[positions] = self.encoder.encode(np.stack(pictures), ids, mask)
        return embeddings, ms_since(started)

    def _attribute(
        self, members: Sequence[Prepared], embeddings: NDArray[np.float32], filter_: Filter
    ) -> list[Attribution]:
        top_k = max(prepared.top_k for prepared in members)
        top_creators = max(prepared.top_creators for prepared in members)
        started = perf_counter()
        count = min(max(self.bundle.manifest.index.candidates, top_k), len(self.bundle.items))
        allowed = self.filters.compile(filter_) if filter_ else None
        candidates = self._candidates(embeddings, count, allowed)
        search_ms = ms_since(started)

        started = perf_counter()
        scored = self._rescore(members, embeddings, candidates, top_k, top_creators, allowed)
        peak = scored.similarity[:, 0]
        if allowed is not None:
            # Whether the query is foreign is a fact about the query, not about what the filter left over.
            peak = self._rescore(
                members, embeddings, self.index.search(embeddings, count), 1, 0, None
            ).similarity[:, 0]
        rescore_ms = ms_since(started)

        started = perf_counter()
        answers = [
            assemble(self.bundle, prepared, scored, row, float(peak[row]))
            for row, prepared in enumerate(members)
        ]
        assemble_ms = ms_since(started)
        for prepared in members:
            timings = prepared.timings
            timings.search, timings.rescore, timings.assemble = search_ms, rescore_ms, assemble_ms
        return answers

    def _candidates(
        self, embeddings: NDArray[np.float32], count: int, allowed: Allowed | None
    ) -> NDArray[np.int64]:
        if allowed is None:
            return self.index.search(embeddings, count)
        if allowed.count <= count and allowed.rows.size == allowed.count:
            # So few items pass that all of them are candidates: exact, and cheaper than a restricted scan.
            return np.broadcast_to(allowed.rows, (len(embeddings), allowed.count))
        return self.index.search(embeddings, count, allowed.bitmap)

    def _rescore(
        self,
        members: Sequence[Prepared],
        embeddings: NDArray[np.float32],
        candidates: NDArray[np.int64],
        top_k: int,
        top_creators: int,
        allowed: Allowed | None,
    ) -> kernels.Rescored:
        calibration = self.bundle.manifest.calibration
        shares = [calibration.of(prepared.has_prompt) for prepared in members]
        return kernels.rescore(
            embeddings,
            np.ascontiguousarray(candidates),
            self.bundle.vectors,
            self.bundle.items.creator_of_row,
            self.bundle.items.group_of_row,
            temperature=np.array([share.temperature for share in shares], np.float32),
            threshold=np.array([share.threshold for share in shares], np.float32),
            background=np.array([share.background for share in shares], np.float32),
            top_k=top_k,
            top_creators=top_creators,
            allowed=None if allowed is None else allowed.bitmap,
        )
