"""Streams through the whole gateway in process: order, back-pressure, cancellation, messages that cannot be read."""

import asyncio

import grpc
import pytest

from attributary.client import Answer, query
from attributary.v1 import attribution_pb2 as pb


async def started(engine):
    await asyncio.to_thread(engine.started.acquire)


async def test_stream_keeps_order_and_ids_and_goes_on_after_errors(stub, vector):
    async def requests():
        for number in range(20):
            embedding = pb.Embedding(values=vector(number) if number % 5 else [1.0])
            request = pb.AttributeRequest(query=pb.Query(embedding=embedding))
            yield pb.AttributeStreamRequest(request_id=f"r{number}", request=request)

    responses = [response async for response in stub.AttributeStream(requests())]
    assert [response.request_id for response in responses] == [f"r{number}" for number in range(20)]
    for number, response in enumerate(responses):
        if number % 5:
            assert response.attribution.items[0].similarity == number
        else:
            assert response.error.field == "query.embedding"


async def test_a_long_request_id_is_an_error_of_its_own(stub, vector):
    async def requests():
        request = pb.AttributeRequest(query=pb.Query(embedding=pb.Embedding(values=vector(1))))
        for request_id in ("x" * 129, "x" * 128):
            yield pb.AttributeStreamRequest(request_id=request_id, request=request)

    first, second = [response async for response in stub.AttributeStream(requests())]
    assert (first.request_id, first.error.field) == ("", "request_id")
    assert second.attribution.items


async def test_stream_reads_ahead_by_a_bounded_number(serve, engine, vector):
    gateway, client = await serve(engine, read_ahead=3)
    engine.gate.clear()
    results = client.attribute_stream([query(embedding=vector(1))] * 50)
    first = asyncio.create_task(anext(results))
    await started(engine)
    for _ in range(50):
        await asyncio.sleep(0.002)
        assert gateway.admission.in_use <= 3
    engine.gate.set()
    await first
    assert len([result async for result in results]) == 49


async def test_a_stream_waits_for_permits(serve, engine, vector):
    _, client = await serve(engine, permits=1, read_ahead=4)
    results = [result async for result in client.attribute_stream([query(embedding=vector(1))] * 9)]
    assert all(isinstance(result, Answer) for result in results)
    assert len(results) == 9


async def test_leaving_a_stream_cancels_what_is_queued(serve, engine, vector):
    gateway, client = await serve(engine)
    engine.gate.clear()
    busy = asyncio.create_task(client.attribute(embedding=vector(1)))
    await started(engine)
    results = client.attribute_stream([query(embedding=vector(value)) for value in range(2, 7)])
    first = asyncio.create_task(anext(results))
    while gateway.admission.in_use < 6:
        await asyncio.sleep(0.001)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    while gateway.admission.in_use > 1:
        await asyncio.sleep(0.001)
    engine.gate.set()
    await busy
    await client.attribute(embedding=vector(9))
    assert engine.batches == [[1], [9]]


async def test_a_failing_source_of_queries_is_told_to_its_owner(serve, engine, vector):
    _, client = await serve(engine)

    def queries():
        yield query(embedding=vector(1))
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        async for _ in client.attribute_stream(queries()):
            pass
    assert (await client.attribute(embedding=vector(1))).items


async def test_an_unreadable_stream_message_ends_the_stream_after_earlier_results(serve, engine, vector):
    gateway, _ = await serve(engine)
    good = pb.AttributeStreamRequest(
        request_id="1",
        request=pb.AttributeRequest(query=pb.Query(embedding=pb.Embedding(values=vector(1)))),
    )

    async def requests():
        yield good.SerializeToString()
        yield b"\x0a\x01\xff"

    async with grpc.aio.insecure_channel(f"127.0.0.1:{gateway.port}") as channel:
        call = channel.stream_stream("/attributary.v1.AttributionService/AttributeStream")(requests())
        responses = []
        with pytest.raises(grpc.RpcError) as caught:
            async for response in call:
                responses.append(pb.AttributeStreamResponse.FromString(response))
    assert [response.request_id for response in responses] == ["1"]
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert gateway.admission.in_use == 0
