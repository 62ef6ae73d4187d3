"""The golden queries: a server serves a bundle only if its encoder, index and kernels still answer them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from attributary.bundle.golden import GOLDEN, Golden
from attributary.errors import BundleError
from attributary.index.base import MIN_RECALL, golden_recall

from .engine import Engine
from .types import Attribution, Options, Prepared

# fp32 encoders differ between CPUs by rounding only; a quantised one by its quantisation.
MIN_COSINE = {"fp32": 0.9999, "int8": 0.97}
_SIMILARITY_TOLERANCE = 2e-3
_SHARE_TOLERANCE = 2e-3
TOP_K = 10


def golden_queries(golden: Golden, top_k: int) -> list[Prepared]:
    """The golden pictures and prompts as prepared queries."""
    return [
        Prepared(
            top_k=top_k,
            top_creators=0,
            filter=Options().filter,
            has_prompt=bool(mask.any()),
            pixels=pixels,
            tokens=ids[mask.astype(bool)],
        )
        for pixels, ids, mask in zip(golden.pixels, golden.token_ids, golden.token_mask, strict=True)
    ]


def verify_golden(engine: Engine, precision: str = "fp32", own_index: bool = True) -> float:
    """Ask the golden queries and compare; returns the smallest cosine between embeddings and the expected ones.

    An index that is not the bundle's own need not give the same answers, only find what they name. Raises
    BundleError: of the encoder if embeddings differ, of the index if the ranked items do.
    """
    golden = engine.bundle.golden
    queries = golden_queries(golden, golden.ids.shape[1])
    cosine = float((engine.embed(queries) * golden.embeddings).sum(axis=1).min())
    wanted = MIN_COSINE[precision]
    if not cosine >= wanted:
        raise BundleError(
            f"encoder ({precision})",
            f"disagrees with {GOLDEN}: cosine {cosine:.5f}, at least {wanted} is needed",
        )
    if not own_index:
        recall = golden_recall(engine.index, engine.bundle)
        if recall < MIN_RECALL:
            raise BundleError(
                "index", f"finds {recall:.3f} of what {GOLDEN} expects, at least {MIN_RECALL} is needed"
            )
        return cosine
    # Search and shares are held to the expected embeddings, so that the encoder's rounding cannot hide in them.
    for query, embedding in zip(queries, golden.embeddings, strict=True):
        query.embedding = embedding
    for number, answer in enumerate(engine.run(queries)):
        if problem := difference(golden, number, answer):
            raise BundleError("index.faiss", f"disagrees with {GOLDEN}: query {number}: {problem}")
    return cosine


def make_golden(engine: Engine, queries: Sequence[Prepared]) -> Golden:
    """Record what `engine` answers to prepared pictures; the caller trusts it by having just built it."""
    top_k = min(TOP_K, engine.snapshot.item_count, engine.snapshot.candidate_count)
    for query in queries:
        query.top_k = top_k
    answers = engine.run(queries)
    pixels = [query.pixels for query in queries]
    assert all(picture is not None for picture in pixels)
    ids, mask = engine.tokenizer.pad([query.tokens for query in queries])
    return Golden(
        pixels=np.stack([picture for picture in pixels if picture is not None]),
        token_ids=ids,
        token_mask=mask,
        embeddings=engine.embed(queries),
        ids=np.array([[item.id for item in answer.items] for answer in answers], np.int64),
        similarity=np.array([[item.similarity for item in answer.items] for answer in answers], np.float32),
        share=np.array([[item.share for item in answer.items] for answer in answers], np.float32),
        diffuse=np.array([answer.diffuse_share for answer in answers], np.float32),
    )


def difference(golden: Golden, number: int, answer: Attribution) -> str | None:
    """Say where an answer to golden query `number` differs from the one recorded, None if it does not."""
    expected = dict(zip(golden.ids[number].tolist(), golden.similarity[number].tolist(), strict=True))
    last = min(expected.values())
    for item in answer.items:
        # Equal similarities may change places, also across the end of the list.
        wanted = expected.get(item.id, last)
        if abs(item.similarity - wanted) > _SIMILARITY_TOLERANCE:
            return f"item {item.id} has similarity {item.similarity:.4f}, expected {wanted:.4f}"
    if len(answer.items) != len(expected):
        return f"{len(answer.items)} items came back, expected {len(expected)}"
    if abs(answer.diffuse_share - float(golden.diffuse[number])) > _SHARE_TOLERANCE:
        return f"diffuse share is {answer.diffuse_share:.4f}, expected {float(golden.diffuse[number]):.4f}"
    return None
