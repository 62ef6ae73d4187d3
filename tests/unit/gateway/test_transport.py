"""How messages get in: a bounded number at once."""

import asyncio
import platform
import subprocess
import sys
import time

import grpc
import pytest

from attributary.errors import OverloadedError
from attributary.gateway import transport
from attributary.gateway.callers import Caller
from attributary.gateway.config import GatewayConfig
from attributary.gateway.transport import Receiver


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


async def test_slow_messages_of_one_caller_keep_no_other_caller_waiting():
    receiver = Receiver(limit=100, max_bytes=2_400, max_waiting=100)
    loud = [Call("loud") for _ in range(40)]
    tasks = await reading(receiver, *loud)
    assert receiver.unfinished == 21  # of 24 places
    for _ in range(5):
        quiet = Call("quiet")
        (asking,) = await reading(receiver, quiet)
        assert receiver.unfinished == 22
        quiet.message.set_result(b"q")
        assert await asking == b"q"
    # A place that is given back goes on to whoever waits.
    loud[0].message.set_result(b"a")
    assert await tasks[0] == b"a"
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert receiver.unfinished == 21
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert receiver.unfinished == 0
    # Alone it has all but those.
    tasks = await reading(receiver, *(Call("loud") for _ in range(30)))
    assert receiver.unfinished == 21
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_memory_is_given_back_when_slow_messages_stop_and_once_a_minute_while_they_come(monkeypatch):
    """It holds up whoever wants memory, so not after each of them."""
    now, given, done = [1_000.0], [], asyncio.Event()
    loop = asyncio.get_running_loop()
    monkeypatch.setattr(transport, "monotonic", lambda: now[0])
    monkeypatch.setattr(
        transport, "give_memory_back", lambda: (given.append(now[0]), loop.call_soon_threadsafe(done.set))
    )
    receiver = Receiver(limit=100, max_bytes=400, max_waiting=10)

    async def sweep():
        untidy = receiver.untidy
        receiver.sweep(now[0])
        if untidy and not receiver.untidy:
            await asyncio.wait_for(done.wait(), 60)
            done.clear()

    for _ in range(130):
        slow = Call("loud")
        (task,) = await reading(receiver, slow)
        now[0] += 1.0
        slow.message.set_result(b"x")
        await task
        await sweep()
    assert len(given) == 2
    assert receiver.untidy
    now[0] += 3.0
    await sweep()
    assert len(given) == 3
    assert not receiver.untidy


async def test_a_large_message_is_worth_tidying_after_however_quick():
    receiver = Receiver(limit=1 << 22, max_bytes=1 << 24, max_waiting=10)
    for size, worth in ((1_000, False), (2 << 20, True)):
        call = Call("one")
        call.message.set_result(b"x" * size)
        await receiver.read(call)
        assert receiver.untidy is worth


# Three copies of 16 MB come and go, as a message's do; counted are the pages that the system had to clear.
COPIES = """
import resource
from attributary.gateway.transport import keep_memory
keep_memory()
for turn in range(22):
    if turn == 2:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    copies = [bytes(bytearray(16_000_000)) for _ in range(3)]
    del copies
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="what is set is glibc's")
def test_memory_of_one_large_message_is_there_for_the_next():
    done = subprocess.run([sys.executable, "-c", COPIES], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 20 * 1_000


async def test_no_more_than_so_many_wait():
    receiver = Receiver(limit=100, max_bytes=400, max_waiting=2)
    tasks = await reading(receiver, *(Call("a") for _ in range(6)))
    with pytest.raises(OverloadedError, match="too many messages"):
        await receiver.read(Call("a"))
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert receiver.unfinished == 0


async def test_a_call_that_waits_long_to_be_taken_is_not_cancelled_by_grpc(tmp_path):
    """gRPC's limit, 30 s unless it is set, is a second here unless the server's options say more: the first counts."""

    async def slow(request, context):
        time.sleep(1.1)  # the event loop is busy
        return b""

    given = transport.options(GatewayConfig(), 1_000)
    server = grpc.aio.server(options=(*given, ("grpc.server_max_unrequested_time_in_server", 1)))
    handler = grpc.unary_unary_rpc_method_handler(slow)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("a", {"b": handler}),))
    address = f"unix:{tmp_path}/socket"
    server.add_insecure_port(address)
    await server.start()

    def call():
        own = (("grpc.use_local_subchannel_pool", 1),)
        with grpc.insecure_channel(address, options=own) as channel:
            return channel.unary_unary("/a/b")(b"", timeout=60)

    assert await asyncio.gather(*(asyncio.to_thread(call) for _ in range(4))) == [b""] * 4
    await server.stop(0)
