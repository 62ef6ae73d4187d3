"""Replies that are put together by hand are what protobuf makes of the same answer."""

from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attributary.attribution.types import AttributedItem, Attribution, CreatorShare, Timings
from attributary.gateway.reply import attribution, embedded, varint
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
    st.booleans(), st.integers(0, 2**63 - 1), st.just(Timings()), st.none(), st.booleans(),
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
