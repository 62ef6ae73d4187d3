"""What the core refuses, by field and limit, and what it does not."""

import numpy as np
import pytest

from attributary.attribution.types import Filter, Limits, Options, Query
from attributary.errors import InvalidArgumentError, NotFoundError


@pytest.fixture(scope="module")
def item_picture(tiny_corpus_dir):
    return lambda number: (tiny_corpus_dir / f"pictures/{number}.png").read_bytes()


DIM = 209


@pytest.mark.parametrize(
    ("query", "options", "field", "words"),
    [
        (Query(), Options(), "query", "exactly one of image, pixels, embedding must be given, got none"),
        (Query(image=b"x", embedding=np.ones(DIM)), Options(), "query", "got image, embedding"),
        (Query(embedding=np.ones(3)), Options(), "query.embedding", "must have 209 values, got 3"),
        (Query(embedding=np.ones((1, DIM))), Options(), "query.embedding", r"shape \(1, 209\)"),
        (Query(embedding=np.full(DIM, np.nan)), Options(), "query.embedding", "finite"),
        (Query(embedding=np.full(DIM, np.inf)), Options(), "query.embedding", "finite"),
        (Query(embedding=np.zeros(DIM)), Options(), "query.embedding", "all zero"),
        (Query(embedding=np.ones(DIM), prompt="x"), Options(), "query.prompt", "must be empty"),
        (Query(image=b""), Options(), "query.image", "empty"),
        (Query(pixels=np.zeros((0, 4, 3), np.uint8)), Options(), "query.pixels", "at least 1"),
        (Query(pixels=np.zeros((4, 4), np.uint8)), Options(), "query.pixels", "uint8 RGB"),
        (Query(pixels=np.zeros((4, 4, 3), np.float32)), Options(), "query.pixels", "uint8 RGB"),
        (Query(pixels=np.zeros((300, 300, 3), np.uint8)), Options(), "query.pixels", "the limit is 80000"),
        (Query(image=b"x", prompt="é" * 600), Options(), "query.prompt", "1200 bytes, the limit is 1000"),
        (Query(image=b"x"), Options(top_k=0), "options.top_k", "from 1 to 50"),
        (Query(image=b"x"), Options(top_k=-3), "options.top_k", "got -3"),
        (Query(image=b"x"), Options(top_k=51), "options.top_k", "must be from 1 to 50, got 51"),
        (Query(image=b"x"), Options(top_creators=-1), "options.top_creators", "got -1"),
        (
            Query(image=b"x"),
            Options(filter=Filter(include_creators=("Eve",))),
            "options.filter.include_creators",
            "no item has the creator 'Eve'",
        ),
        (
            Query(image=b"x"),
            Options(filter=Filter(exclude_licences=("GPL",))),
            "options.filter.exclude_licences",
            "no item has the licence 'GPL'",
        ),
    ],
)
def test_refusals_name_the_field_and_the_limit(tiny_engine, query, options, field, words):
    limits = Limits(max_image_pixels=80_000, max_prompt_bytes=1_000, max_top_k=50)
    engine = type(tiny_engine)(tiny_engine.bundle, tiny_engine.encoder, tiny_engine.index, limits)
    with pytest.raises(InvalidArgumentError, match=words) as caught:
        engine.prepare(query, options)
    assert caught.value.field == field


def test_asking_for_more_than_there_is_is_no_error(tiny_engine, item_picture):
    """A caller who asks for all items must not fail when somebody opts out."""
    answer = tiny_engine.attribute(Query(image=item_picture(0)), Options(top_k=1000, top_creators=1000))
    assert len(answer.items) == tiny_engine.snapshot.candidate_count == 32


def test_large_finite_embeddings_do_not_overflow(tiny_engine):
    huge = np.full(DIM, 3e38, np.float32)
    assert (
        tiny_engine.attribute(Query(embedding=huge)).items
        == tiny_engine.attribute(Query(embedding=np.ones(DIM, np.float32))).items
    )


def test_unknown_item_is_named(tiny_engine):
    assert tiny_engine.snapshot.row_of(1005) == 5
    with pytest.raises(NotFoundError, match="no such item: 5"):
        tiny_engine.snapshot.row_of(5)


def test_empty_batch(tiny_engine):
    assert tiny_engine.run([]) == []
