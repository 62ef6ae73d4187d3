"""Connections over gRPC: one address with all of them keeps nobody out."""

import asyncio
import contextlib
import socket

from attributary.gateway import sockets
from tests.support.rude import PREFACE

MOST = 32


@contextlib.contextmanager
def crowd(port, *sources):
    """Connections that say what HTTP/2 begins with, and no more; the server has taken them."""
    with contextlib.ExitStack() as stack:
        lines = []
        for source in sources:
            line = stack.enter_context(socket.create_connection(("127.0.0.1", port), 30, (source, 0)))
            line.sendall(PREFACE + b"\0\0\0\4\0\0\0\0\0")
            line.recv(1)
            lines.append(line)
        yield lines


def is_open(line):
    line.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while data := line.recv(1 << 16):
            pass
        return bool(data)
    return True


async def room(gateway, lines):
    """Which connections are left when there is room again."""
    async with asyncio.timeout(30):
        while sum(map(is_open, lines)) > MOST - MOST // 8:
            await asyncio.sleep(0.05)
    return [is_open(line) for line in lines]


async def test_an_address_with_all_connections_keeps_no_other_out(serve, engine):
    gateway, client = await serve(engine, max_connections=MOST)
    with contextlib.ExitStack() as stack:
        lines = await asyncio.to_thread(
            lambda: stack.enter_context(crowd(gateway.port, *["127.0.0.2"] * MOST))
        )
        left = await room(gateway, lines)
        assert sum(left) >= MOST - MOST // 8 - 1
        # From another address.
        assert (await client.describe()).item_count == 3
    labels = {"method": "connection", "code": "RESOURCE_EXHAUSTED"}
    assert gateway.metrics.registry.get_sample_value("attributary_requests_total", labels) >= MOST // 8


async def test_who_has_its_part_or_less_keeps_it(serve, engine):
    gateway, _ = await serve(engine, max_connections=MOST)
    sources = ["127.0.0.2"] * 26 + ["127.0.0.3"] * 5
    with contextlib.ExitStack() as stack:
        lines = await asyncio.to_thread(lambda: stack.enter_context(crowd(gateway.port, *sources)))
        left = await room(gateway, lines)
        assert all(left[26:]) and not all(left[:26])


async def test_nobody_is_hung_up_on_while_there_is_room(serve, engine):
    gateway, _ = await serve(engine, max_connections=MOST)
    with contextlib.ExitStack() as stack:
        lines = await asyncio.to_thread(
            lambda: stack.enter_context(crowd(gateway.port, *["127.0.0.2"] * (MOST - MOST // 8)))
        )
        assert sockets.make_room(gateway.port, MOST) == 0
        assert all(map(is_open, lines))
        # Of one who has no more than its part of fewer, either.
        assert sockets.make_room(gateway.port, 2 * len(lines) + 8) == 0
