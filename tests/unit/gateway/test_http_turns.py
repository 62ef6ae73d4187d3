"""Requests over HTTP begin one by one, their callers by turns."""

import asyncio
import contextlib
import socket

from attributary.gateway.fairness import Turns
from tests.support.http_calls import form

CROWD = 200


def asking(path, token="", times=1):
    head = f"authorization: Bearer {token}\r\n" if token else ""
    return f"GET {path} HTTP/1.1\r\nhost: localhost\r\n{head}\r\n".encode() * times


async def order_of(gateway, crowd, other, other_source="127.0.0.1"):
    """Methods in the order in which they ended: a crowd's requests had all come before the other one."""
    ended, count = [], gateway.metrics.call
    gateway.metrics.call = lambda name, *rest: (ended.append(name), count(name, *rest))
    with contextlib.ExitStack() as stack:
        lines = []
        for number in range(CROWD + 1):
            source = (other_source if number == CROWD else "127.0.0.1", 0)
            line = socket.create_connection(("127.0.0.1", gateway.http_port), 30, source)
            lines.append(stack.enter_context(line))
        async with asyncio.timeout(30):
            while len(gateway._http._server.server_state.connections) <= CROWD:
                await asyncio.sleep(0.01)
        # The server has this thread, too, and sees nothing until it is let go.
        for line in lines[:-1]:
            line.sendall(crowd)
        lines[-1].sendall(other)
        assert await asyncio.to_thread(lines[-1].recv, 12) == b"HTTP/1.1 200"
    return ended


async def test_requests_on_many_connections_wait_behind_another_callers(site):
    gateway, _, _ = await site()
    order = await order_of(gateway, asking("/healthz", times=5), asking("/v1/bundle"), "127.0.0.2")
    assert order.index("DescribeBundle") < CROWD / 4


async def test_behind_one_address_tokens_take_turns(site, tmp_path):
    (tmp_path / "tokens").write_text("ann a-token\nbob b-token\n")
    gateway, _, _ = await site(tokens_file=tmp_path / "tokens")
    order = await order_of(gateway, asking("/healthz", "a-token"), asking("/v1/bundle", "b-token"))
    assert order.index("DescribeBundle") < CROWD / 4


async def test_one_begins_in_each_turn_of_the_loop_and_who_has_gone_is_left_out():
    turns, begun = Turns(), []
    waiting = [turns.queue((name,)) for name in ("ann", "ann", "ann", "bob")]
    for name, turn in zip(("ann 1", "ann 2", "ann 3", "bob"), waiting, strict=True):
        turn.add_done_callback(lambda _, name=name: begun.append(name))
    waiting[1].set_result(None)
    for _ in range(3):
        before = len(begun)
        await asyncio.sleep(0)
        assert len(begun) - before <= 2
    await waiting[2]
    await asyncio.sleep(0)
    assert begun == ["ann 2", "ann 1", "bob", "ann 3"]


async def test_a_caller_who_has_gone_before_its_turn_is_not_served(site):
    gateway, _, ask = await site()
    turns, held = gateway._http._connections._turns, []
    queue = turns.queue

    def hold(path):
        held.append(asyncio.get_running_loop().create_future())
        if len(held) == 1:
            # The connection's; the next one is its request's.
            held[0].set_result(None)
        return held[-1]

    turns.queue = hold
    with socket.create_connection(("127.0.0.1", gateway.http_port), 30) as line:
        line.sendall(asking("/v1/bundle"))
        async with asyncio.timeout(30):
            while len(held) < 2:
                await asyncio.sleep(0.01)
    turns.queue = queue
    async with asyncio.timeout(30):
        await held[1]
        while gateway._http._server.server_state.tasks:
            await asyncio.sleep(0.01)
    labels = {"method": "DescribeBundle", "code": "OK"}
    assert gateway.metrics.registry.get_sample_value("attributary_requests_total", labels) is None
    assert (await ask("GET", "/v1/bundle"))[0] == 200


async def test_pieces_of_a_large_body_take_turns(site):
    gateway, _, ask = await site()
    turns, taken = gateway._http._connections._turns, []
    queue = turns.queue
    turns.queue = lambda path: (taken.append(path), queue(path))[1]
    body, headers = form(image=b"x" * (4 << 20))
    assert (await ask("POST", "/v1/attribute", body, {**headers, "authorization": "Bearer t"}))[0] == 400
    # Of 256 KB or less; the connection is known by its address alone, and has one more.
    assert taken.count(("ipv4:127.0.0.1", "Bearer t")) >= 15
    taken.clear()
    body, headers = form(image=b"x" * 1_000)
    assert (await ask("POST", "/v1/attribute", body, headers))[0] == 400
    assert len(taken) == 2
    # Read at once, a thousand parts had taken 15 ms of everybody.
    part = b'--X\r\nContent-Disposition: form-data; name="exclude_creators"\r\n\r\nAnn\r\n'
    headers = {"content-type": "multipart/form-data; boundary=X"}
    status, _, text = await ask("POST", "/v1/attribute", part * 1_000 + b"--X--\r\n", headers)
    assert status == 400 and b"must be given: curl" in text
    assert len(taken) > 2 + len(part) * 1_000 // 4_096
