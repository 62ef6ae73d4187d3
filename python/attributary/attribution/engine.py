"""The core: a batch's whole way, readable top to bottom. Knows no transport.

prepare (per query, any thread; prepare.py): decode -> resize and crop -> tokenise
run (per batch): encode -> candidates from the index -> exact re-scoring, shares, creator totals (score.py) -> captions
"""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from attributary.bundle.bundle import Bundle
from attributary.encoder.base import Encoder
from attributary.index.base import VectorIndex

from .prepare import Preparer, ms_since
from .score import Scored, Scores
from .types import Attribution, Limits, Options, Prepared, Query


class Engine(Preparer):
    """Answers queries from one open bundle. Safe to call from several threads."""

    def __init__(
        self, bundle: Bundle, encoder: Encoder, index: VectorIndex, limits: Limits | None = None
    ) -> None:
        super().__init__(bundle, encoder.spec, limits, index)
        self.encoder = encoder

    @property
    def index(self) -> VectorIndex:
        """The index over the bundle's own items."""
        assert self.snapshot.index is not None
        return self.snapshot.index

    def run(self, batch: Sequence[Prepared]) -> list[Attribution]:
        """Answer prepared queries together; one Attribution for each, in their order.

        An answer is the same alone and in any batch, but for the encoder's rounding.
        """
        scored = self.scored(batch)
        started = perf_counter()
        answers = [one.attribution() for one in scored]
        assemble_ms = ms_since(started)
        for prepared in batch:
            prepared.timings.assemble = assemble_ms
        return answers

    def scored(self, batch: Sequence[Prepared]) -> list[Scored]:
        """As `run`, in numbers: for whoever writes answers in a form of its own."""
        if not batch:
            return []
        embeddings, encode_ms = self._encode(batch)
        # One look: additions and deletions meanwhile are for the next query.
        snapshot = self.snapshot
        started = perf_counter()
        candidates = snapshot.candidates(embeddings)
        search_ms = ms_since(started)
        started = perf_counter()
        scores = Scores(snapshot, batch, candidates, embeddings)
        for filter_, places in scores.short.items():
            scores.fill(places, snapshot.candidates_among(embeddings[places], filter_))
        rescore_ms = ms_since(started)
        for prepared in batch:
            timings = prepared.timings
            timings.batch_size = len(batch)
            if prepared.embedding is None:
                timings.encode = encode_ms
            timings.search, timings.rescore = search_ms, rescore_ms
        return scores.scored()

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
        encoded = self.encoder.encode(np.stack(pictures), ids, mask)
        if not np.isfinite(encoded).all():
            raise RuntimeError("the encoder gave values that are not finite")
        embeddings[positions] = encoded
        return embeddings, ms_since(started)
