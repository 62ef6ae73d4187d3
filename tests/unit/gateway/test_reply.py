"""Replies that are put together by the compiled writer are what protobuf makes of the same answer."""

from dataclasses import fields, replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attributary import kernels
from attributary.attribution.score import Scored
from attributary.attribution.types import AttributedItem, Attribution, CreatorShare, Filter, Prepared, Timings
from attributary.gateway import reply
from attributary.gateway.reply import Replies, attribution, embedded, varint
from attributary.gateway.translate import write
from attributary.v1 import attribution_pb2 as pb

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)
SHARE = st.floats(0, 1, width=32)
IDS = st.lists(TEXT, max_size=3).map(tuple)
ITEM = st.builds(
    AttributedItem,
    st.integers(-(2**63), 2**63 - 1), st.integers(1, 5_000), st.floats(-1, 1, width=32), SHARE,
    TEXT, TEXT, TEXT, TEXT, TEXT, st.integers(-(2**63), 2**63 - 1), IDS,
)  # fmt: skip
CREATOR = st.one_of(
    st.builds(CreatorShare, TEXT, SHARE, st.integers(0, 5_000), creator_ids=IDS),
    st.builds(CreatorShare, TEXT, SHARE, st.integers(0, 5_000), SHARE, SHARE, IDS),
)
ANSWER = st.builds(
    Attribution,
    st.lists(ITEM, max_size=4).map(tuple), st.lists(CREATOR, max_size=4).map(tuple), SHARE, SHARE,
    st.booleans(), st.integers(0, 2**63 - 1), st.just(Timings()), st.none(), st.booleans(), st.booleans(),
)  # fmt: skip


def message(answer, bundle_id, version, receipt):
    return write(
        pb.Attribution, answer,
        items=[write(pb.AttributedItem, item) for item in answer.items],
        creators=[write(pb.CreatorShare, total) for total in answer.creators],
        timings=None, receipt=receipt, bundle_id=bundle_id, bundle_version=version,
    )  # fmt: skip


@given(ANSWER, TEXT, TEXT, st.binary(max_size=300))
def test_the_bytes_are_those_of_the_message(answer, bundle_id, version, receipt):
    data = attribution(answer, bundle_id, version, receipt)
    assert pb.Attribution.FromString(data) == message(answer, bundle_id, version, receipt)
    response = pb.AttributeResponse.FromString(embedded(1, data))
    assert response.attribution == pb.Attribution.FromString(data)


def in_numbers(answer, ends):
    """The same answer as an engine of this process leaves it: rows and codes count from 0."""
    names = [f"{place} {total.creator}" for place, total in enumerate(answer.creators)]
    known = {name: total.creator_ids for name, total in zip(names, answer.creators, strict=True)}
    facts = [
        (
            *(item.id, item.caption, item.creator, item.licence, item.uri, item.creator_url),
            *(item.near_dup_group, item.creator_ids),
        )
        for item in answer.items
    ]
    items = SimpleNamespace(facts=facts.__getitem__, creator_names=names, ids_of=known.__getitem__)
    between = SimpleNamespace(
        between=lambda shares: (0.5 * shares.astype(float), 2.0 * shares.astype(float)) if ends else None
    )
    calibration = SimpleNamespace(pixels=answer.unjudged, of=lambda has_prompt: between)
    snapshot = SimpleNamespace(
        bundle=SimpleNamespace(items=items, manifest=SimpleNamespace(calibration=calibration)),
        revision=answer.revision,
    )
    # One place more than there are creators: it is unused.
    count = len(names) + 1
    scored = kernels.Rescored.empty(2, len(facts), count)
    scored.creators[1, :-1] = range(len(names))
    scored.creator_share[1, :-1] = [total.share for total in answer.creators]
    scored.creator_items[1, :-1] = [total.item_count for total in answer.creators]
    scored.diffuse[1], scored.withheld[1] = answer.diffuse_share, answer.withheld_share
    return Scored(
        snapshot,
        Prepared(10, count, Filter(), answer.has_prompt, timings=answer.timings),
        scored,
        1,
        np.arange(len(facts)),
        np.array([item.similarity for item in answer.items], np.float32),
        np.array([item.share for item in answer.items], np.float32),
        answer.out_of_distribution,
    )


@pytest.mark.skipif(kernels.reply_writer() is None, reason="no compiled writer here")
@given(ANSWER, st.booleans(), TEXT, TEXT, st.binary(max_size=300))
def test_answers_in_numbers_are_written_as_those_in_words(answer, ends, bundle_id, version, receipt):
    scored = in_numbers(answer, ends)
    replies = Replies(bundle_id, version)
    expected = message(scored.attribution(), bundle_id, version, receipt)
    written = replies.write(scored, receipt)
    assert pb.Attribution.FromString(written) == expected
    assert replies.write(scored, receipt) == written, "what was kept"


def test_without_the_compiled_writer_the_reply_is_the_same(monkeypatch):
    answer = Attribution(
        (AttributedItem(1, 1, 0.5, 0.5, "a", "Ann", "MIT", "u"),), (CreatorShare("Ann", 0.5, 1),), 0.5, 0.0,
        False, 3, Timings(),
    )  # fmt: skip
    scored = in_numbers(answer, ends=True)
    compiled = pb.Attribution.FromString(Replies("id", "v").write(scored))
    monkeypatch.setenv("ATTRIBUTARY_KERNELS", "numpy")
    assert pb.Attribution.FromString(Replies("id", "v").write(scored)) == compiled


@pytest.mark.skipif(kernels.reply_writer() is None, reason="no compiled writer here")
def test_what_is_kept_is_bounded(monkeypatch):
    monkeypatch.setattr(reply, "_KEPT", 2)
    replies = Replies("id", "v")
    for count in (3, 4, 3):
        item = AttributedItem(1, 1, 0.5, 0.5, "a", "Ann", "MIT", "u")
        items = tuple(replace(item, id=number) for number in range(count))
        replies.write(in_numbers(Attribution(items, (), 0.5, 0.0, False, 3, Timings()), ends=False))
    assert len(replies._items) == 3


@pytest.mark.skipif(kernels.reply_writer() is None, reason="no compiled writer here")
def test_the_compiled_writer_refuses_columns_of_different_lengths():
    one, two = np.zeros(1, np.float32), np.zeros(2, np.float32)
    codes = np.zeros(1, np.int32)
    for share, most in ((two, 1), (one, 2)):
        with pytest.raises(ValueError):
            kernels.reply_writer()(
                {}, lambda row: b"", np.zeros(1, np.int64), one, share, {}, lambda code: b"",
                codes, one, codes, None, None, most, 0.0, 0.0, False, False, 0, b"",
            )  # fmt: skip


@pytest.mark.parametrize("value", [0, 1, 127, 128, 2_047, 2_048, 2**63])
def test_numbers_are_written_as_protobuf_does(value):
    assert b"\x48" + varint(value) == pb.Attribution(revision=value).SerializeToString() or value == 0


@pytest.mark.parametrize(
    ("kind", "source"), [(pb.AttributedItem, AttributedItem), (pb.CreatorShare, CreatorShare)]
)
def test_every_field_of_the_contract_is_written(kind, source):
    assert {field.name for field in fields(source)} == set(kind.DESCRIPTOR.fields_by_name)


def test_what_was_said_of_an_item_before_is_not_said_of_its_successor():
    item = AttributedItem(1, 1, 0.5, 0.5, "before", "Ann", "MIT", "u")
    answer = Attribution((item,), (), 0.5, 0.0, False, 0, Timings())
    attribution(answer, "id", "v")
    later = replace(answer, items=(replace(item, caption="after"),))
    assert pb.Attribution.FromString(attribution(later, "id", "v")).items[0].caption == "after"
