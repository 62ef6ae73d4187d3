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

from attributary.bundle.bundle import Bundle
from attributary.encoder.base import Encoder
from attributary.index.base import VectorIndex
from attributary.kernels import Rescored

from .answers import assemble
from .filters import Allowed
from .prepare import Preparer, ms_since
from .types import Attribution, Filter, Limits, Options, Prepared, Query
from .view import View

_ALL = Filter()


class Engine(Preparer):
    """Answers queries from one open bundle. Safe to call from several threads."""

    def __init__(
        self, bundle: Bundle, encoder: Encoder, index: VectorIndex, limits: Limits | None = None
    ) -> None:
        super().__init__(bundle, encoder.spec, limits)
        self.encoder = encoder
        self.view = View.of(bundle, index)

    @property
    def index(self) -> VectorIndex:
        """The index over the items as of now."""
        assert self.view.index is not None
        return self.view.index

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
        # One look: additions and deletions meanwhile are for the next query.
        view = self.view
        assert view.index is not None
        top_k = max(prepared.top_k for prepared in members)
        top_creators = max(prepared.top_creators for prepared in members)
        started = perf_counter()
        count = min(max(view.bundle.manifest.index.candidates, top_k), view.item_count)
        alive = None if view.alive is None else view.filters.compile(_ALL)
        allowed = view.filters.compile(filter_) if filter_ else alive
        candidates = _candidates(view.index, embeddings, count, allowed)
        search_ms = ms_since(started)

        started = perf_counter()
        scored = _rescore(view, members, embeddings, candidates, top_k, top_creators, allowed)
        peak = scored.similarity[:, 0]
        if filter_:
            # Whether the query is foreign is a fact about the query, not about what the filter left over.
            everything = _candidates(view.index, embeddings, count, alive)
            peak = _rescore(view, members, embeddings, everything, 1, 0, alive).similarity[:, 0]
        rescore_ms = ms_since(started)

        started = perf_counter()
        answers = [
            assemble(view.bundle, prepared, scored, row, float(peak[row]))
            for row, prepared in enumerate(members)
        ]
        assemble_ms = ms_since(started)
        for prepared in members:
            timings = prepared.timings
            timings.search, timings.rescore, timings.assemble = search_ms, rescore_ms, assemble_ms
        return answers


def _candidates(
    index: VectorIndex, embeddings: NDArray[np.float32], count: int, allowed: Allowed | None
) -> NDArray[np.int64]:
    if allowed is None:
        return index.search(embeddings, count)
    if allowed.count <= count and allowed.rows.size == allowed.count:
        # So few items pass that all of them are candidates: exact, and cheaper than a restricted scan.
        return np.broadcast_to(allowed.rows, (len(embeddings), allowed.count))
    return index.search(embeddings, count, allowed.bitmap)


def _rescore(
    view: View,
    members: Sequence[Prepared],
    embeddings: NDArray[np.float32],
    candidates: NDArray[np.int64],
    top_k: int,
    top_creators: int,
    allowed: Allowed | None,
) -> Rescored:
    calibration = view.bundle.manifest.calibration
    shares = [calibration.of(prepared.has_prompt) for prepared in members]
    return view.rescore(
        embeddings,
        candidates,
        None if allowed is None else allowed.bitmap,
        temperature=np.array([share.temperature for share in shares], np.float32),
        threshold=np.array([share.threshold for share in shares], np.float32),
        background=np.array([share.background for share in shares], np.float32),
        top_k=top_k,
        top_creators=top_creators,
    )
