import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attributary.attribution.types import (
    AttributedItem,
    Attribution,
    CreatorShare,
    Filter,
    Limits,
    Options,
    Timings,
)
from attributary.errors import InvalidArgumentError
from attributary.gateway import translate
from attributary.gateway.reply import attribution
from attributary.gateway.reply import timings as written_timings
from attributary.v1 import attribution_pb2 as pb

LIMITS = Limits(max_image_pixels=100)


@given(st.lists(st.floats(width=32), max_size=300), st.booleans())
@settings(deadline=None)
def test_embedding_values_survive(values, has_prompt):
    message = pb.Query(embedding=pb.Embedding(values=values, has_prompt=has_prompt))
    query = translate.to_query(message, LIMITS, "query")
    np.testing.assert_array_equal(query.embedding, np.array(values, np.float32))
    assert query.has_prompt == has_prompt


def test_unpacked_embedding_and_unknown_fields_are_read():
    unpacked = b"".join(b"\x0d" + np.float32(value).tobytes() for value in (1, 2, 3))
    message = pb.Embedding.FromString(unpacked + b"\x9a\x06\x03abc")
    query = translate.to_query(pb.Query(embedding=message), LIMITS, "query")
    np.testing.assert_array_equal(query.embedding, [1, 2, 3])


def test_pixels_become_an_array():
    data = bytes(range(12))
    query = translate.to_query(
        pb.Query(pixels=pb.Pixels(data=data, height=1, width=4), prompt="a cat"), LIMITS, "query"
    )
    assert query.pixels.shape == (1, 4, 3)
    assert query.pixels.tobytes() == data
    assert query.prompt == "a cat"


@pytest.mark.parametrize(
    ("pixels", "field", "text"),
    [
        (pb.Pixels(data=b"123", height=0, width=1), "q.pixels.height", "at least 1"),
        (pb.Pixels(data=b"123", height=1, width=0), "q.pixels.width", "at least 1"),
        (pb.Pixels(data=b"12", height=1, width=1), "q.pixels.data", "= 3 bytes, got 2"),
        (pb.Pixels(data=b"1234", height=1, width=1), "q.pixels.data", "= 3 bytes, got 4"),
        (pb.Pixels(data=b"", height=10, width=11), "q.pixels", "the limit is 100"),
        (pb.Pixels(data=b"1", height=2**32 - 1, width=2**32 - 1), "q.pixels", "the limit is 100"),
    ],
)
def test_wrong_pixels_name_the_field_and_the_limit(pixels, field, text):
    with pytest.raises(InvalidArgumentError) as caught:
        translate.to_query(pb.Query(pixels=pixels), LIMITS, "q")
    assert caught.value.field == field
    assert text in caught.value.message


def test_unset_counts_are_not_zero():
    assert translate.to_options(pb.Options()) == Options()
    assert translate.to_options(pb.Options(top_k=0, top_creators=0)) == Options(top_k=0, top_creators=0)


def test_filter_lists():
    message = pb.Options(
        filter=pb.Filter(
            include_creators=["a", "b"],
            exclude_creators=["c"],
            include_licences=["MIT"],
            exclude_licences=["X"],
        )
    )
    assert translate.to_options(message).filter == Filter(("a", "b"), ("c",), ("MIT",), ("X",))


def test_an_overlong_filter_names_its_limit():
    message = pb.Options(filter=pb.Filter(exclude_licences=["MIT"] * 10_001))
    with pytest.raises(InvalidArgumentError, match="exclude_licences: must hold at most 10000 names"):
        translate.to_options(message)


def test_answer_and_timings():
    timings = Timings(1, 2, 3, 4, 5, 6, 7, 8, batch_size=9)
    answer = Attribution(
        (AttributedItem(7, 1, 0.5, 0.25, "a cat", "Ann", "MIT", "file:x"),),
        (CreatorShare("Ann", 0.25, 3), CreatorShare("Bo", 0.25, 1, 0.0, 0.5)),
        0.5,
        0.25,
        True,
        3,
        timings,
    )
    reply = pb.Attribution.FromString(attribution(answer, "id", "v"))
    assert reply.items[0] == pb.AttributedItem(
        id=7, rank=1, similarity=0.5, share=0.25, caption="a cat", creator="Ann", licence="MIT", uri="file:x"
    )
    # An interval that nobody knows is absent, and one from 0 is not.
    assert reply.creators[0] == pb.CreatorShare(creator="Ann", share=0.25, item_count=3)
    assert reply.creators[1] == pb.CreatorShare(creator="Bo", share=0.25, item_count=1, low=0.0, high=0.5)
    assert (reply.diffuse_share, reply.withheld_share, reply.out_of_distribution) == (0.5, 0.25, True)
    assert reply.revision == 3
    assert (reply.bundle_id, reply.bundle_version) == ("id", "v")
    assert not reply.HasField("timings")
    assert pb.Timings.FromString(written_timings(timings, 10)) == pb.Timings(
        queue_ms=1, decode_ms=2, preprocess_ms=3, tokenize_ms=4, encode_ms=5, search_ms=6, rescore_ms=7,
        assemble_ms=8, total_ms=10, batch_size=9,
    )  # fmt: skip


def _text(number, payload):
    return bytes([number << 3 | 2, len(payload)]) + payload


@pytest.mark.parametrize(
    ("kind", "data", "field"),
    [
        (pb.AttributeRequest, _text(1, _text(4, b"\xff")), "query.prompt"),
        (pb.AttributeRequest, _text(3, b"\xc3"), "bundle_id"),
        (pb.AttributeRequest, _text(2, _text(3, _text(1, b"ok") + _text(1, b"\x80"))),
         "options.filter.include_creators[1]"),
        (pb.AttributeBatchRequest, _text(1, b"") + _text(1, _text(4, b"\xff")), "queries[1].prompt"),
        (pb.AttributeRequest, b"\x0a\x7f", "request"),
        (pb.AttributeRequest, b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", "request"),
        (pb.AttributeRequest, b"\x0b", "request"),
    ],
)  # fmt: skip
def test_unreadable_messages_name_the_field(kind, data, field):
    with pytest.raises(InvalidArgumentError) as caught:
        translate.parse(kind, data)
    assert caught.value.field == field


def test_the_search_for_a_fault_ends_after_so_many_fields():
    broken = _text(1, _text(4, b"\xff"))
    for fields, field in ((100, "query.prompt"), (10_000, "request")):
        with pytest.raises(InvalidArgumentError) as caught:
            # Unknown fields of two bytes, at the top and in a message below.
            translate.parse(pb.AttributeRequest, b"\x78\x00" * fields + broken)
        assert caught.value.field == field
    size = len(b"\x78\x00" * 10_000 + b"\x22\x01\xff")
    nested = b"\x0a" + bytes([size & 0x7F | 0x80, size >> 7 & 0x7F | 0x80, size >> 14])
    with pytest.raises(InvalidArgumentError) as caught:
        translate.parse(pb.AttributeRequest, nested + b"\x78\x00" * 10_000 + b"\x22\x01\xff")
    assert caught.value.field == "request"


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_a_clear_error(data):
    try:
        assert isinstance(translate.parse(pb.AttributeRequest, data), pb.AttributeRequest)
    except InvalidArgumentError as error:
        assert error.field


@pytest.mark.parametrize(
    ("measured", "digest", "queries", "figures"),
    [
        (
            '{"fit": {"loss": {"image": 4.5}, "split": "validation"}, '
            '"held_out": {"labels_digest": "ab", "queries": 100, "error": {"image": 0.01, "bad": NaN}}}',
            "ab",
            100,
            {"fit.loss.image": 4.5, "held_out.queries": 100, "held_out.error.image": 0.01},
        ),
        ("{", "", 0, {}),
        ("[1, 2]", "", 0, {}),
        ('{"held_out": 3}', "", 0, {"held_out": 3}),
    ],
)
def test_a_calibration_tells_what_the_manifest_knows(engine, measured, digest, queries, figures):
    engine.bundle.manifest.notes = {"calibration_labels_digest": "cd", "measured": measured}
    told = translate.describe(engine).calibration
    assert (told.method, told.labels_digest) == ("by hand", "cd")
    assert (told.held_out_labels_digest, told.held_out_queries) == (digest, queries)
    assert dict(told.measured) == figures
    assert round(told.image.temperature, 3) == 0.1
