"""Pictures that take long to decode: they wait for each other alone, and a caller's own backlog is bounded."""

import asyncio
import threading

import numpy as np
import pytest

from attributary.client import Answer, AsyncClient, query
from attributary.errors import OverloadedError
from attributary.gateway.opened import Opened
from attributary.gateway.pipeline import COSTLY_BACKLOG_S


async def test_costly_pictures_wait_for_each_other_alone(serve, engine, vector):
    _, client = await serve(engine, prepare_threads=1, decode_processes=1)
    costly = [asyncio.ensure_future(client.attribute(b"costly")) for _ in range(3)]
    await asyncio.to_thread(engine.costly_begun.wait, 60)
    # Nothing that is prepared in a moment stands behind them.
    await client.attribute(np.full((4, 4, 3), 7, np.uint8))
    await client.attribute(embedding=vector(1))
    assert not any(call.done() for call in costly)
    engine.costly_gate.set()
    assert all(isinstance(answer, Answer) for answer in await asyncio.gather(*costly))


async def test_who_has_too_much_decoding_to_wait_for_is_refused_at_once_and_nobody_else_is(
    serve, engine, tmp_path
):
    (tmp_path / "tokens").write_text("hostile\nquiet\n")
    engine.costly_s = COSTLY_BACKLOG_S / 2
    gateway, _ = await serve(engine, tokens_file=tmp_path / "tokens", decode_processes=1)
    address = f"127.0.0.1:{gateway.port}"
    async with (
        AsyncClient(address, token="hostile", retry=False) as hostile,
        AsyncClient(address, token="quiet", retry=False) as quiet,
    ):
        waiting = [asyncio.ensure_future(hostile.attribute(b"costly")) for _ in range(3)]
        # Two have room, whichever these are; the third is refused while nothing is answered.
        done, kept = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        with pytest.raises(OverloadedError, match="take 30 s to decode") as caught:
            done.pop().result()
        assert caught.value.retry_after_s > 0
        other = asyncio.ensure_future(quiet.attribute(b"costly"))
        # Of a batch each query is judged by itself.
        results = await hostile.attribute_batch([query(b"costly"), query(np.full((4, 4, 3), 7, np.uint8))])
        assert [type(result) for result in results] == [OverloadedError, Answer]
        engine.costly_gate.set()
        assert all(isinstance(answer, Answer) for answer in await asyncio.gather(other, *kept))
        # What was done counts no more.
        assert isinstance(await hostile.attribute(b"costly"), Answer)


@pytest.mark.parametrize("processes", [1, 2])
async def test_one_callers_costly_pictures_leave_a_process_to_another_caller(
    serve, engine, tmp_path, processes
):
    """However long one decodes, however many of them wait, another caller's large picture begins at once."""
    (tmp_path / "tokens").write_text("hostile\nquiet\n")
    prepare, begun = engine.prepare, threading.Semaphore(0)

    def other(asked, *rest, wait=True, **more):
        if asked.prompt == "mine" and wait:
            return prepare(type(asked)(pixels=np.full((4, 4, 3), 7, np.uint8)), *rest, wait=wait, **more)
        if asked.image == b"costly" and wait:
            begun.release()
        return prepare(asked, *rest, wait=wait, **more)

    engine.prepare = other
    gateway, _ = await serve(engine, tokens_file=tmp_path / "tokens", decode_processes=processes)
    address = f"127.0.0.1:{gateway.port}"
    async with (
        AsyncClient(address, token="hostile", retry=False) as hostile,
        AsyncClient(address, token="quiet", retry=False) as quiet,
    ):
        sent = [asyncio.ensure_future(hostile.attribute(b"costly")) for _ in range(processes + 2)]
        for _ in range(processes):
            assert await asyncio.to_thread(begun.acquire, timeout=60)
        answer = await quiet.attribute(b"costly", prompt="mine")
        assert answer.items[0].similarity == 7
        # No more of the one caller's have begun, though there is a process.
        assert not begun.acquire(blocking=False)
        assert not any(call.done() for call in sent)
        engine.costly_gate.set()
        assert all(isinstance(answer, Answer) for answer in await asyncio.gather(*sent))


async def test_what_a_caller_has_waiting_counts_over_all_bundles(serve, engine, fake_engine):
    other = fake_engine("00000000000000bb")
    for one in (engine, other):
        one.costly_s = COSTLY_BACKLOG_S
    _, client = await serve(engine, more={"others": {"second": Opened(other, None)}})
    waiting = asyncio.ensure_future(client.attribute(b"costly"))
    assert await asyncio.to_thread(engine.costly_begun.wait, 60)
    with pytest.raises(OverloadedError, match="take 30 s to decode"):
        await client.attribute(b"costly", bundle_id=other.bundle.manifest.bundle_id)
    engine.costly_gate.set()
    assert isinstance(await waiting, Answer)
