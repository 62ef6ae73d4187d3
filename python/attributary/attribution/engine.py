"""The core: a query's whole way, readable top to bottom. Knows no transport.

prepare (per query, any thread): decode -> resize and crop -> tokenise
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
from attributary.encoder.image import decode, prepare_pixels
from attributary.encoder.text import PromptTokenizer
from attributary.errors import InvalidArgumentError, NotFoundError
from attributary.index.base import VectorIndex

from .checks import check_embedding, check_pixels, check_prompt, resolve_counts
from .filters import Allowed, FilterCompiler
from .types import AttributedItem, Attribution, CreatorShare, Filter, Limits, Options, Prepared, Query


class Engine:
    """Answers queries from one open bundle. Safe to call from several threads."""

    def __init__(
        self, bundle: Bundle, encoder: Encoder, index: VectorIndex, limits: Limits | None = None
    ) -> None:
        self.bundle = bundle
        self.encoder = encoder
        self.index = index
        self.limits = limits or Limits()
        self.tokenizer = PromptTokenizer.from_file(bundle.tokenizer_path, encoder.spec.max_tokens)
        self._filters = FilterCompiler(bundle.items, exact_below=bundle.manifest.index.candidates)

    def prepare(self, query: Query, options: Options | None = None, field: str = "query") -> Prepared:
        """Check one query and bring it to what a batch needs: uint8 pixels [S, S, 3] and tokens, or a unit vector.

        Raises InvalidArgumentError with the path below `field` of the value at fault; cheap checks come first.
        """
        options = options or Options()
        given = [name for name in ("image", "pixels", "embedding") if getattr(query, name) is not None]
        if len(given) != 1:
            raise InvalidArgumentError(
                field,
                f"exactly one of image, pixels, embedding must be given, got {', '.join(given) or 'none'}",
            )
        top_k, top_creators = resolve_counts(options, len(self.bundle.items), self.limits)
        self._filters.check(options.filter, "options.filter")
        prepared = Prepared(top_k, top_creators, options.filter, query.has_prompt)
        if query.embedding is not None:
            if query.prompt:
                raise InvalidArgumentError(
                    f"{field}.prompt", "must be empty beside an embedding, which holds its prompt already"
                )
            prepared.embedding = check_embedding(query.embedding, self.encoder.spec.dim, f"{field}.embedding")
            return prepared
        check_prompt(query.prompt, self.limits, f"{field}.prompt")
        self._prepare_pixels(query, prepared, field)
        if query.prompt:
            started = perf_counter()
            prepared.tokens = self.tokenizer.encode(query.prompt, field=f"{field}.prompt")
            prepared.timings.tokenize = _ms_since(started)
        # A prompt of blanks is no prompt: the encoder gets no token of it.
        prepared.has_prompt = prepared.tokens.size > 0
        return prepared

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

    def row_of(self, item_id: int) -> int:
        """Return the row of an item; raises NotFoundError."""
        row = self.bundle.items.row_of(item_id)
        if row is None:
            raise NotFoundError("item", str(item_id))
        return row

    def _prepare_pixels(self, query: Query, prepared: Prepared, field: str) -> None:
        started = perf_counter()
        if query.image is not None:
            pixels = decode(
                query.image,
                max_bytes=self.limits.max_image_bytes,
                max_pixels=self.limits.max_image_pixels,
                field=f"{field}.image",
            )
            prepared.timings.decode = _ms_since(started)
        else:
            assert query.pixels is not None
            pixels = check_pixels(query.pixels, self.limits, f"{field}.pixels")
        started = perf_counter()
        prepared.pixels = prepare_pixels(pixels, self.encoder.spec.image_size)
        prepared.timings.preprocess = _ms_since(started)

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
        return embeddings, _ms_since(started)

    def _attribute(
        self, members: Sequence[Prepared], embeddings: NDArray[np.float32], filter_: Filter
    ) -> list[Attribution]:
        top_k = max(prepared.top_k for prepared in members)
        top_creators = max(prepared.top_creators for prepared in members)
        started = perf_counter()
        count = min(max(self.bundle.manifest.index.candidates, top_k), len(self.bundle.items))
        allowed = self._filters.compile(filter_) if filter_ else None
        candidates = self._candidates(embeddings, count, allowed)
        search_ms = _ms_since(started)

        started = perf_counter()
        scored = self._rescore(members, embeddings, candidates, top_k, top_creators, allowed)
        peak = scored.similarity[:, 0]
        if allowed is not None:
            # Whether the query is foreign is a fact about the query, not about what the filter left over.
            peak = self._rescore(
                members, embeddings, self.index.search(embeddings, count), 1, 0, None
            ).similarity[:, 0]
        rescore_ms = _ms_since(started)

        started = perf_counter()
        answers = [
            self._assemble(prepared, scored, row, float(peak[row])) for row, prepared in enumerate(members)
        ]
        assemble_ms = _ms_since(started)
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

    def _assemble(self, prepared: Prepared, scored: kernels.Rescored, row: int, peak: float) -> Attribution:
        items = self.bundle.items
        rows = scored.rows[row, : prepared.top_k].tolist()
        similarity = scored.similarity[row].tolist()
        share = scored.share[row].tolist()
        found = tuple(
            AttributedItem(
                id=items.id_of(item),
                rank=rank + 1,
                similarity=similarity[rank],
                share=share[rank],
                caption=items.caption(item),
                creator=items.creator(item),
                licence=items.licence(item),
                uri=items.uri(item),
            )
            for rank, item in enumerate(rows)
            if item >= 0
        )
        creators = tuple(
            CreatorShare(items.creator_names[code], total, count)
            for code, total, count in zip(
                scored.creators[row, : prepared.top_creators].tolist(),
                scored.creator_share[row].tolist(),
                scored.creator_items[row].tolist(),
                strict=False,
            )
            if code >= 0
        )
        calibration = self.bundle.manifest.calibration.of(prepared.has_prompt)
        return Attribution(
            items=found,
            creators=creators,
            diffuse_share=float(scored.diffuse[row]),
            out_of_distribution=peak < calibration.ood_similarity,
            timings=prepared.timings,
        )


def _ms_since(started: float) -> float:
    return (perf_counter() - started) * 1e3
