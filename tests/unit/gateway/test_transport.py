"""How messages get in: inflated up to the limit, counted before they are parsed, a bounded number at once."""

import asyncio
import gzip
import zlib

import pytest

from attributary.errors import InvalidArgumentError, OverloadedError
from attributary.gateway.callers import Caller
from attributary.gateway.transport import Receiver, inflate, is_compressed
from attributary.gateway.wire import check_outline
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


class Call:
    """What `Receiver` asks of a call."""

    def __init__(self, name):
        self.caller = Caller(name, name)
        self.message = asyncio.get_running_loop().create_future()
        self.failure = None

    async def receive(self):
        return await self.message

    def end(self, failure):
        self.failure = failure
        self.message.cancel()


async def reading(receiver, *calls):
    tasks = [asyncio.create_task(receiver.read(call)) for call in calls]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return tasks


async def test_messages_beyond_the_bytes_wait_by_turns_of_their_callers():
    receiver = Receiver(limit=100, max_bytes=400, max_waiting=10)
    loud, quiet = [Call("loud") for _ in range(8)], Call("quiet")
    tasks = await reading(receiver, *loud, quiet)
    assert receiver.unfinished == 4
    loud[0].message.set_result(b"a")
    loud[1].message.set_result(b"b")
    assert await tasks[0] == b"a"
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert receiver.unfinished == 4
    quiet.message.set_result(b"q")
    # Third in line, after one more of those who came before it.
    assert await tasks[8] == b"q"
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert receiver.unfinished == 0


async def test_slow_messages_make_room_for_those_who_wait_and_the_one_who_holds_most_goes_first():
    receiver = Receiver(limit=100, max_bytes=400, max_waiting=10)
    calls = [Call("few"), *(Call("many") for _ in range(3))]
    tasks = await reading(receiver, *calls)
    receiver.sweep(1e12)
    assert all(call.failure is None for call in calls)  # nobody waits
    late = Call("late")
    (waiting,) = await reading(receiver, late)
    receiver.sweep(1e12)
    assert isinstance(calls[1].failure, OverloadedError)
    assert [call.failure for call in (calls[0], *calls[2:])] == [None] * 3
    late.message.set_result(b"x")
    assert await waiting == b"x"
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_no_more_than_so_many_wait():
    receiver = Receiver(limit=100, max_bytes=400, max_waiting=2)
    tasks = await reading(receiver, *(Call("a") for _ in range(6)))
    with pytest.raises(OverloadedError, match="too many messages"):
        await receiver.read(Call("a"))
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert receiver.unfinished == 0
