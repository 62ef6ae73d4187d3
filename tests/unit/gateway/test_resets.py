"""Over gRPC: who begins calls and takes them back is hung up on; others are answered meanwhile."""

import asyncio
import contextlib

import pytest

from attributary.gateway import resets
from tests.support.rude import RST_STREAM, Rude

MOST_CALLS = 8
CANCEL = b"\0\0\0\x08"


def taken_back(address, calls):
    """Begin calls on one connection, and reset each at once; return whether the server hung up."""
    peer = Rude(address)
    with contextlib.suppress(OSError):
        for number in range(calls):
            peer.begin(2 * number + 1)
            peer.frame(RST_STREAM, 0, 2 * number + 1, CANCEL)
    try:
        return peer.wait_closed(5 if calls < 2 * MOST_CALLS else 60)
    finally:
        peer.close()


@pytest.mark.parametrize(("calls", "ended"), [(MOST_CALLS, False), (20_000, True)])
async def test_a_connection_with_many_calls_that_are_taken_back_is_ended(serve, engine, vector, calls, ended):
    gateway, client = await serve(engine, max_connection_calls=MOST_CALLS)
    rude = asyncio.create_task(asyncio.to_thread(taken_back, f"127.0.0.1:{gateway.port}", calls))
    assert (await client.attribute(embedding=vector(1))).items
    assert await rude is ended
    assert (await client.attribute(embedding=vector(1))).items


def test_a_list_in_pages_is_read_to_its_end():
    pages = {
        0: '{"socketRef": [{"socketId": "1"}, {"socketId": "4"}]}',
        5: '{"socketRef": [{"socketId": "7"}], "end": true}',
    }
    found = resets._asked(pages.__getitem__, "socketRef")
    assert [entry["socketId"] for entry in found] == ["1", "4", "7"]
