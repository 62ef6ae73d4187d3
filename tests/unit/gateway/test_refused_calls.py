"""What was refused is gone at once, its message and its picture too: nothing waits for the garbage collector."""

import asyncio
import contextlib
import gc
from types import TracebackType

import grpc
import numpy as np
import pytest

from attributary.attribution.types import Query
from attributary.client import AsyncClient, query
from attributary.errors import AttributaryError
from attributary.gateway.batching import Job
from attributary.v1 import attribution_pb2 as pb

PICTURE = np.full((4, 4, 3), 7, np.uint8)
EMBEDDING = pb.Query(embedding=pb.Embedding(values=[1, 2]))


async def in_a_stream(client, stub):
    async def asked():
        yield pb.AttributeStreamRequest(
            request_id="1", request=pb.AttributeRequest(query=pb.Query(image=b"x"))
        )

    async for answer in stub.AttributeStream(asked()):
        assert answer.error.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]


WRONG = {
    "a picture": lambda client, _: client.attribute(b"wrong"),
    "an embedding": lambda client, _: client.attribute(embedding=[1.0, 2.0]),
    "to embed": lambda client, _: client.embed(b"wrong"),
    "an item": lambda client, _: client.get_item(8),
    "a bundle": lambda client, _: client.attribute(PICTURE, bundle_id="00000000000000ff"),
    "in a batch": lambda client, _: client.attribute_batch([query(b"wrong"), query(PICTURE)]),
    "no query": lambda client, _: client.attribute_batch([]),
    "nothing": lambda _, stub: stub.Attribute(pb.AttributeRequest()),
    "in a stream": in_a_stream,
    "past its deadline": lambda _, stub: stub.Attribute(pb.AttributeRequest(query=EMBEDDING), timeout=1e-3),
}


def left():
    """What holds a picture or a message, as far as it is still there: queries, jobs, frames of the server's methods."""
    found = [one for one in gc.get_objects() if isinstance(one, Query | Job | TracebackType)]
    return [one for one in found if not isinstance(one, TracebackType) or _holds_a_message(one.tb_frame)]


def _holds_a_message(frame):
    return "attributary/gateway" in frame.f_code.co_filename and {"data", "job"} & set(
        frame.f_code.co_varnames
    )


@pytest.fixture
def by_hand():
    """Nothing is collected by itself, and what other tests left behind is not looked at."""
    gc.collect()
    gc.freeze()
    gc.disable()
    yield
    gc.enable()
    gc.unfreeze()


async def gone():
    """Whether nothing is left, or soon will be; what still is after so many turns stays until it is collected.

    Not asked of defects: what writes their tracebacks to the log keeps them.
    """
    for _ in range(200):
        if not left():
            return True
        await asyncio.sleep(0.05)
    return False


@pytest.mark.parametrize("wrong", WRONG)
async def test_a_refused_call_leaves_nothing(serve, engine, stub, by_hand, wrong):
    _, client = await serve(engine)
    await client.attribute(PICTURE)
    assert await gone()
    for _ in range(3):
        with contextlib.suppress(AttributaryError, grpc.RpcError):
            await WRONG[wrong](client, stub)
    assert await gone()


async def test_nor_does_one_without_a_permit(serve, engine, by_hand):
    gateway, client = await serve(engine, permits=1)
    engine.gate.clear()
    waiting = asyncio.ensure_future(client.attribute(PICTURE))
    assert await asyncio.to_thread(engine.started.acquire, timeout=60)
    async with AsyncClient(f"127.0.0.1:{gateway.port}", retry=False) as other:
        for _ in range(3):
            with pytest.raises(AttributaryError, match="permits"):
                await other.attribute(PICTURE)
    engine.gate.set()
    await waiting
    assert await gone()


async def test_nor_does_one_over_http(site, by_hand):
    _, _, ask = await site()
    for body in ({"query": {"image": "d3Jvbmc="}}, {"query": 3}):
        status, *_ = await ask("POST", "/v1/attribute", body)
        assert status >= 400
    assert await gone()
