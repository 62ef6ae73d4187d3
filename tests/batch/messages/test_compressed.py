"""Law 12: a compressed message counts at its inflated size, and a batch is counted, before either is read."""

import gzip
import zlib

import pytest

from attributary.errors import InvalidArgumentError
from attributary.gateway.translate import check_outline
from attributary.gateway.transport import inflate, is_compressed
from attributary.v1 import attribution_pb2 as pb


@pytest.mark.parametrize("compress", [gzip.compress, zlib.compress])
def test_a_compressed_message_is_inflated_up_to_the_limit(compress):
    data = pb.AttributeRequest(query=pb.Query(prompt="x" * 5000)).SerializeToString()
    assert is_compressed(compress(data))
    assert inflate(compress(data), len(data)) == data
    with pytest.raises(InvalidArgumentError, match="larger than max when inflated"):
        inflate(compress(data), len(data) - 1)
    with pytest.raises(InvalidArgumentError, match="incomplete"):
        inflate(compress(data)[:-9], len(data))
    with pytest.raises(InvalidArgumentError, match="damaged"):
        inflate(compress(data)[:2] + b"\xff" * 40, len(data))


def test_no_request_looks_compressed():
    for message in (
        pb.AttributeRequest(query=pb.Query(image=b"x" * 0x78)),
        pb.AttributeBatchRequest(queries=[pb.Query()]),
        pb.AttributeStreamRequest(request_id="x"),
        pb.GetItemRequest(id=30876),
    ):
        assert not is_compressed(message.SerializeToString())
    # The heads of gzip and zlib are tags of fields 3 (of no wire type) and 15.
    for kind in ("AttributeRequest", "AttributeBatchRequest", "AttributeStreamRequest", "GetItemRequest"):
        assert 15 not in pb.DESCRIPTOR.message_types_by_name[kind].fields_by_number


BATCH = pb.AttributeBatchRequest.DESCRIPTOR


def test_a_batch_is_counted_before_it_is_parsed():
    few = pb.AttributeBatchRequest(queries=[pb.Query()] * 64).SerializeToString()
    check_outline(few, BATCH, {"queries": 64})
    many = b"\x0a\x00" * 5_000_000
    with pytest.raises(InvalidArgumentError, match="queries: must hold 1 to 64 queries, got more than"):
        check_outline(many, BATCH, {"queries": 64})
    with pytest.raises(InvalidArgumentError, match="request: has more than"):
        check_outline(b"\x48\x00" * 5_000_000, BATCH, {"queries": 64})


def test_large_options_are_refused_before_they_are_parsed():
    options = pb.Options(filter=pb.Filter(include_creators=["x" * 100] * 12_000))
    single = pb.AttributeRequest(query=pb.Query(prompt="p"), options=options)
    streamed = pb.AttributeStreamRequest(request_id="1", request=single)
    for message in (single, streamed, pb.AttributeBatchRequest(options=options)):
        with pytest.raises(InvalidArgumentError, match="options: must have at most"):
            check_outline(message.SerializeToString(), message.DESCRIPTOR)


def test_what_cannot_be_read_is_left_to_the_parser():
    check_outline(b"\xff\xff\xff", BATCH, {"queries": 1})
    check_outline(b"", BATCH, {"queries": 1})
