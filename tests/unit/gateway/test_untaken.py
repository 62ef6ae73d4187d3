"""Answers that their caller does not take are bounded in bytes and in time."""

import asyncio
import contextlib
import socket

from attributary.v1 import attribution_pb2 as pb
from tests.support import rude

LIST = "/attributary.v1.AttributionService/ListItems"


@contextlib.contextmanager
def reluctant(gateway, calls):
    """A connection with calls whose answers nobody takes beyond the first 64 KB."""
    peer = rude.Rude(f"127.0.0.1:{gateway.port}")
    try:
        message = rude.message(pb.ListItemsRequest(page_size=300).SerializeToString())
        for number in range(calls):
            peer.begin(2 * number + 1, LIST)
            peer.frame(rude.DATA, 1, 2 * number + 1, message)
        yield peer
    finally:
        peer.close()


def counted(gateway, code):
    labels = {"method": "ListItems", "code": code}
    return gateway.metrics.registry.get_sample_value("attributary_requests_total", labels) or 0


@contextlib.contextmanager
def unread(gateway, lines):
    """Connections over HTTP with an answer each of which nobody reads anything."""
    with contextlib.ExitStack() as stack:
        for _ in range(lines):
            line = stack.enter_context(socket.socket())
            line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2_048)
            line.connect(("127.0.0.1", gateway.http_port))
            line.sendall(b"GET /v1/items?page_size=300 HTTP/1.1\r\nhost: localhost\r\n\r\n" * 30)
        yield


async def until(condition):
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.01)


async def test_who_takes_no_answers_gets_no_more_of_them(serve, tiny_engine):
    gateway, client = await serve(tiny_engine, max_inflight_bytes=1 << 20)
    untaken = gateway._front.untaken
    with contextlib.ExitStack() as stack:
        await asyncio.to_thread(lambda: stack.enter_context(reluctant(gateway, 90)))
        await until(lambda: counted(gateway, "OK") + counted(gateway, "RESOURCE_EXHAUSTED") == 90)
        assert counted(gateway, "RESOURCE_EXHAUSTED") > 0
        assert untaken.most / 2 < untaken.used <= untaken.most
        # What is small is answered.
        assert (await client.get_item(1000)).id == 1000
    await until(lambda: untaken.used == 0)
    assert len((await client.list_items(page_size=300)).entries) == 300


async def test_a_connection_whose_answers_are_not_taken_in_time_is_ended(serve, tiny_engine):
    gateway, client = await serve(tiny_engine, call_s=0.5)
    with contextlib.ExitStack() as stack:
        peer = await asyncio.to_thread(lambda: stack.enter_context(reluctant(gateway, 20)))
        assert await asyncio.to_thread(peer.wait_closed)
        assert (await client.get_item(1000)).id == 1000
    await until(lambda: gateway._front.untaken.used == 0)


async def test_over_http_who_leaves_too_much_is_hung_up_on(site, tiny_engine):
    gateway, _, ask = await site(tiny_engine, max_inflight_bytes=1 << 20)
    gateway._http._connections._listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2_048)
    untaken, used = gateway._front.untaken, []
    move = untaken.move
    untaken.move = lambda size, caller: (move(size, caller), used.append(untaken.used))
    with contextlib.ExitStack() as stack:
        await asyncio.to_thread(lambda: stack.enter_context(unread(gateway, 20)))
        # Twenty of 47 KB are too many.
        await until(
            lambda: (
                len(gateway._http._server.server_state.connections) < 20
                # Who finds no room left is refused before an answer is there.
                and counted(gateway, "OK") + counted(gateway, "RESOURCE_EXHAUSTED") >= 20
            )
        )
        assert untaken.most / 2 < max(used) <= untaken.most
        assert (await ask("GET", "/v1/items/1000"))[0] == 200
    await until(lambda: untaken.used == 0)
    assert (await ask("GET", "/v1/items?page_size=300"))[0] == 200
