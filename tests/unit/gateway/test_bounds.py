"""Calls that wait, flood or never end: each is bounded, and none holds up another caller's."""

import asyncio
import threading

import grpc
import numpy as np
import pytest
from prometheus_client import generate_latest

from attributary.client import AsyncClient, Filter, query
from attributary.errors import (
    DeadlineError,
    OverloadedError,
)
from attributary.gateway.fairness import FairPool
from tests.unit.gateway.conftest import TOKEN


async def started(engine):
    await asyncio.to_thread(engine.started.acquire)


async def test_bulk_streams_refuse_no_single_call_and_fill_an_idle_server(serve, engine, vector):
    gateway, client = await serve(engine, permits=32)
    engine.gate.clear()

    async def bulk():
        return [result async for result in client.attribute_stream([query(embedding=vector(2))] * 40)]

    streams = [asyncio.create_task(bulk()) for _ in range(3)]
    while gateway.admission.in_use < 20:
        await asyncio.sleep(0.001)
    single = [asyncio.create_task(client.attribute(embedding=vector(1))) for _ in range(4)]
    while gateway.admission.in_use < 24 and not any(call.done() for call in single):
        await asyncio.sleep(0.001)
    engine.gate.set()
    assert [answer.items[0].similarity for answer in await asyncio.gather(*single)] == [1] * 4
    assert [len(results) for results in await asyncio.gather(*streams)] == [40] * 3


async def test_streams_are_bounded_and_told_to_come_back(serve, engine, vector):
    _, client = await serve(engine, max_streams=2)
    engine.gate.clear()
    streams = [client.attribute_stream([query(embedding=vector(1))] * 2) for _ in range(2)]
    open_ones = [asyncio.create_task(anext(stream)) for stream in streams]
    await started(engine)
    # Large messages are still being written when the refusal comes.
    picture = np.zeros((512, 512, 3), np.uint8)
    for _ in range(20):
        with pytest.raises(OverloadedError) as caught:
            await anext(client.attribute_stream([query(picture)] * 20))
        assert caught.value.retry_after_s == 1.0
    engine.gate.set()
    await asyncio.gather(*open_ones)
    for stream in streams:
        await stream.aclose()


async def test_a_stream_that_neither_sends_nor_takes_is_ended(serve, engine):
    gateway, _ = await serve(engine, stream_idle_s=0.1)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{gateway.port}") as channel:
        call = channel.stream_stream("/attributary.v1.AttributionService/AttributeStream")()
        assert await call.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        assert "for 0.1 s" in await call.details()


async def test_a_stream_of_additions_that_neither_sends_nor_takes_is_ended(running):
    gateway, _, _ = running
    gateway._front.stream_idle_s = 0.1
    async with grpc.aio.insecure_channel(f"127.0.0.1:{gateway.port}") as channel:
        add = channel.stream_stream("/attributary.v1.AdminService/AddItems")
        call = add(metadata=[("authorization", f"Bearer {TOKEN}")])
        assert await call.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        assert "for 0.1 s" in await call.details()
    assert gateway._front._streams.used == 0


async def test_an_answer_without_a_deadline_is_bounded_by_the_servers(serve, engine, vector):
    gateway, client = await serve(engine, call_s=0.1)
    engine.gate.clear()
    with pytest.raises(DeadlineError, match="no answer within"):
        await client.attribute(embedding=vector(1))
    engine.gate.set()
    assert gateway.admission.in_use == 0


async def test_long_filters_are_looked_up_off_the_event_loop(serve, engine, vector):
    _, client = await serve(engine)
    threads = []
    prepare = engine.prepare

    def noted(*arguments, **more):
        threads.append(threading.current_thread().name)
        return prepare(*arguments, **more)

    engine.prepare = noted
    await client.attribute(embedding=vector(1), filter=Filter(include_creators=("a",)))
    await client.attribute(embedding=vector(1), filter=Filter(include_creators=("a",) * 5_000))
    assert threads[0] == threading.main_thread().name
    assert threads[1].startswith("prepare")


async def test_the_servers_own_socket_is_not_for_others(serve, engine):
    gateway, _ = await serve(engine)
    async with grpc.aio.insecure_channel(gateway._shedder.address) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            await channel.unary_unary("/attributary.v1.AttributionService/DescribeBundle")(b"")
    assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED


async def test_a_method_that_nobody_has_is_unimplemented_and_counted(serve, engine):
    gateway, _ = await serve(engine)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{gateway.port}") as channel:
        with pytest.raises(grpc.RpcError) as caught:
            await channel.unary_unary("/attributary.v1.AttributionService/Nothing")(b"")
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
    text = generate_latest(gateway.metrics.registry).decode()
    assert 'attributary_requests_total{code="UNIMPLEMENTED",method="unknown"} 1.0' in text


@pytest.mark.parametrize("hostile_call", ["single", "stream"])
async def test_a_hostile_caller_waits_behind_its_own_work(serve, engine, tmp_path, monkeypatch, hostile_call):
    """Pictures that take long to read, many of one caller's: another caller's comes next, not last."""
    (tmp_path / "tokens").write_text("hostile\nquiet\n")
    gateway, _ = await serve(
        engine, tokens_file=tmp_path / "tokens", permits=64, prepare_threads=1, read_ahead=20
    )
    address, order, begun, gate = f"127.0.0.1:{gateway.port}", [], threading.Event(), threading.Event()
    prepare, submit, queued = engine.prepare, FairPool.submit, []

    def noted(pool, *arguments):
        submit(pool, *arguments)
        queued.append(None)

    def slow(asked, *rest, **more):
        order.append("hostile" if asked.pixels.flat[0] == 1 else "quiet")
        begun.set()
        assert gate.wait(30)
        return prepare(asked, *rest, **more)

    engine.prepare = slow
    monkeypatch.setattr(FairPool, "submit", noted)
    bad, good = np.full((1, 1, 3), 1, np.uint8), np.full((1, 1, 3), 2, np.uint8)
    async with AsyncClient(address, token="hostile") as hostile, AsyncClient(address, token="quiet") as quiet:

        async def streamed():
            return [result async for result in hostile.attribute_stream([query(bad)] * 20)]

        calls = (
            [asyncio.create_task(streamed())]
            if hostile_call == "stream"
            else [asyncio.create_task(hostile.attribute(bad)) for _ in range(20)]
        )
        assert await asyncio.to_thread(begun.wait, 30)
        # Admitted is not yet queued: whose turn comes is decided among those that are.
        while len(queued) < 20:
            await asyncio.sleep(0.001)
        asked = asyncio.create_task(quiet.attribute(good))
        while len(queued) < 21:
            await asyncio.sleep(0.001)
        gate.set()
        assert (await asked).items[0].similarity == 2
        await asyncio.gather(*calls)
    assert order.index("quiet") == 1
    assert order.count("hostile") == 20
