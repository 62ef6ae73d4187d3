import asyncio
import contextvars

import pytest

from attributary.errors import OverloadedError, UnavailableError
from attributary.gateway import callers
from attributary.gateway.admission import Admission
from attributary.gateway.callers import Caller


async def test_permits_run_out_and_come_back():
    admission = Admission(permits=3, max_bytes=100)
    admission.take(2, 10)
    with pytest.raises(OverloadedError, match="all 3 permits"):
        admission.take(2, 10)
    admission.take(1, 10)
    admission.release(2, 10)
    admission.take(2, 10)
    assert (admission.in_use, admission.bytes_in_use) == (3, 20)


async def test_bytes_run_out_but_a_lone_message_always_fits():
    admission = Admission(permits=9, max_bytes=100)
    admission.take(1, 1000)
    with pytest.raises(OverloadedError, match="100 bytes"):
        admission.take(1, 1)
    admission.release(1, 1000)
    admission.take(1, 60)
    admission.take(1, 40)
    with pytest.raises(OverloadedError):
        admission.take(1, 1)


async def test_streams_wait_their_turn_in_order():
    admission = Admission(permits=1, max_bytes=100)
    admission.take(1, 0)
    order = []

    async def stream(name):
        await admission.wait(0)
        order.append(name)

    tasks = [asyncio.create_task(stream(name)) for name in "ab"]
    await asyncio.sleep(0)
    assert order == []
    admission.release(1, 0)
    await tasks[0]
    assert order == ["a"]
    admission.release(1, 0)
    await tasks[1]
    assert admission.in_use == 1


async def test_a_stream_that_leaves_the_line_takes_nothing():
    admission = Admission(permits=1, max_bytes=100)
    admission.take(1, 0)
    waiting = asyncio.create_task(admission.wait(0))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    admission.release(1, 0)
    assert admission.in_use == 0


async def test_a_stream_cancelled_as_it_is_let_in_gives_the_permit_back():
    admission = Admission(permits=1, max_bytes=100)
    admission.take(1, 0)
    waiting = asyncio.create_task(admission.wait(0))
    await asyncio.sleep(0)
    admission.release(1, 0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert admission.in_use == 0


async def test_a_closed_door_refuses_everybody():
    admission = Admission(permits=1, max_bytes=100)
    admission.take(1, 0)
    waiting = asyncio.create_task(admission.wait(0))
    await asyncio.sleep(0)
    admission.close()
    with pytest.raises(UnavailableError):
        await waiting
    with pytest.raises(UnavailableError):
        admission.take(1, 0)
    with pytest.raises(UnavailableError):
        await admission.wait(0)


def served_as(caller, function, *arguments):
    """Call a function in the name of a caller."""
    context = contextvars.copy_context()
    context.run(callers.enter, caller)
    return context.run(function, *arguments)


BULK, LOUD, QUIET = Caller("bulk", "1", bulk=True), Caller("loud", "2"), Caller("quiet", "3")


async def test_streams_leave_permits_to_single_calls():
    admission = Admission(permits=32, max_bytes=1000)

    def waiting():
        async def stream():
            await admission.wait(0)

        return asyncio.create_task(stream())

    tasks = [served_as(BULK, waiting) for _ in range(40)]
    await asyncio.sleep(0)
    assert admission.in_use == 20
    served_as(QUIET, admission.take, 1, 0)
    served_as(BULK, admission.release, 1, 0)
    await asyncio.sleep(0)
    assert sum(task.done() for task in tasks) == 21
    for task in tasks:
        task.cancel()


async def test_a_batch_leaves_permits_to_single_calls_unless_it_is_alone():
    admission = Admission(permits=32, max_bytes=1000)
    served_as(BULK, admission.take, 32, 0)
    served_as(BULK, admission.release, 32, 0)
    served_as(BULK, admission.take, 20, 0)
    with pytest.raises(OverloadedError, match="kept for single calls"):
        served_as(BULK, admission.take, 5, 0)
    served_as(QUIET, admission.take, 8, 0)


async def test_bulk_of_one_caller_leaves_permits_and_bytes_to_anothers():
    admission = Admission(permits=256, max_bytes=64 << 20)
    other = Caller("other", "4", bulk=True)

    async def stream():
        await admission.wait(1 << 20)

    tasks = [served_as(BULK, lambda: asyncio.create_task(stream())) for _ in range(256)]
    await asyncio.sleep(0)
    assert admission.bytes_in_use == 40 << 20
    with pytest.raises(OverloadedError):
        served_as(BULK, admission.take, 1, 1 << 20)
    served_as(other, admission.take, 1, 8 << 20)
    for task in tasks:
        task.cancel()
    admission = Admission(permits=256, max_bytes=64 << 20)
    served_as(BULK, admission.take, 64, 0)
    served_as(BULK, admission.take, 64, 0)
    with pytest.raises(OverloadedError, match="for other callers"):
        served_as(BULK, admission.take, 64, 0)
    served_as(other, admission.take, 64, 0)


async def test_no_caller_can_shut_another_one_out():
    admission = Admission(permits=64, max_bytes=1000)
    admitted = 0
    with pytest.raises(OverloadedError, match="kept for other callers"):
        for _ in range(64):
            served_as(LOUD, admission.take, 1, 0)
            admitted += 1
    assert admitted == 56
    served_as(QUIET, admission.take, 8, 0)
    assert admission.in_use == 64
    served_as(LOUD, admission.release, 1, 0)
    with pytest.raises(OverloadedError):
        served_as(LOUD, admission.take, 1, 0)
    served_as(QUIET, admission.take, 1, 0)


async def test_no_caller_can_take_all_bytes():
    admission = Admission(permits=64, max_bytes=8 << 20)
    for _ in range(7):
        served_as(LOUD, admission.take, 1, 1 << 20)
    with pytest.raises(OverloadedError):
        served_as(LOUD, admission.take, 1, 1 << 20)
    served_as(QUIET, admission.take, 1, 1 << 20)


async def test_a_permit_widens_to_a_batch_and_stays_if_it_cannot():
    admission = Admission(permits=4, max_bytes=100)
    admission.take(1, 0)
    admission.widen(4, 60)
    assert (admission.in_use, admission.bytes_in_use) == (4, 60)
    admission.release(3, 60)
    with pytest.raises(OverloadedError):
        admission.widen(5, 0)
    assert admission.in_use == 1
