"""The whole gateway in process, over a real socket, around the small engine of conftest."""

import asyncio
import contextlib
import dataclasses
import urllib.request
from types import SimpleNamespace

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from attributary.client import Answer, AsyncClient, ServerError, query
from attributary.errors import (
    DeadlineError,
    InvalidArgumentError,
    NotFoundError,
    OverloadedError,
    UnavailableError,
)
from attributary.gateway import translate
from attributary.gateway.server import Gateway
from attributary.gateway.transport import address_of, message_limit
from attributary.v1 import attribution_pb2 as pb


async def started(engine):
    await asyncio.to_thread(engine.started.acquire)


async def test_attribute_answers_with_everything(serve, engine, vector):
    _, client = await serve(engine)
    answer = await client.attribute(embedding=vector(0.5), timings=True)
    assert [(item.id, item.rank, item.similarity) for item in answer.items] == [(7, 1, 0.5)]
    assert (answer.creators[0].creator, answer.diffuse_share) == ("Ann", 0.5)
    assert (answer.bundle_id, answer.bundle_version) == ("00000000000000aa", "1")
    assert answer.timings.search == 0.5
    assert answer.timings.total > 0
    assert (await client.attribute(embedding=vector(0.5))).timings is None


async def test_pixels_go_through_the_encode_lane(serve, engine):
    _, client = await serve(engine)
    answer = await client.attribute(np.full((2, 3, 3), 9, np.uint8))
    assert answer.items[0].similarity == 9


async def test_item_and_description(serve, engine):
    _, client = await serve(engine)
    item = await client.get_item(7)
    assert (item.caption, item.near_dup_group) == ("a cat", 5)
    with pytest.raises(NotFoundError) as caught:
        await client.get_item(8)
    assert (caught.value.kind, caught.value.name) == ("item", "8")
    bundle = await client.describe()
    assert (bundle.dim, bundle.item_count, bundle.limits) == (4, 3, engine.limits)


async def test_a_bundle_is_described_once_a_revision(serve, engine, monkeypatch):
    # It takes milliseconds of the event loop, and whoever asks needs no permit.
    described, describe = [], translate.describe
    monkeypatch.setattr(translate, "describe", lambda engine: (described.append(engine), describe(engine))[1])
    _, client = await serve(engine)
    assert [(await client.describe()).revision for _ in range(5)] == [0] * 5
    engine.snapshot = SimpleNamespace(**{**vars(engine.snapshot), "revision": 1})
    assert [(await client.describe()).revision for _ in range(5)] == [1] * 5
    assert len(described) == 2


@pytest.mark.parametrize("call", ["attribute", "batch", "item", "describe", "stream"])
async def test_another_bundle_is_not_found(serve, engine, vector, call):
    _, client = await serve(engine)
    asked = {"bundle_id": "ffffffffffffffff"}

    async def stream():
        results = [result async for result in client.attribute_stream([query(embedding=vector(1))], **asked)]
        raise results[0]

    calls = {
        "attribute": lambda: client.attribute(embedding=vector(1), **asked),
        "batch": lambda: client.attribute_batch([query(embedding=vector(1))], **asked),
        "item": lambda: client.get_item(7, **asked),
        "describe": lambda: client.describe(**asked),
        "stream": stream,
    }
    with pytest.raises(NotFoundError) as caught:
        await calls[call]()
    assert (caught.value.kind, caught.value.name) == ("bundle", "ffffffffffffffff")


async def test_errors_of_a_batch_stay_in_their_places(serve, engine, vector):
    _, client = await serve(engine)
    wrong = query(embedding=np.zeros(3, np.float32))
    results = await client.attribute_batch([query(embedding=vector(1)), wrong, query(b"x"), query(b"defect")])
    assert isinstance(results[0], Answer)
    assert (results[1].field, results[2].field) == ("queries[1].embedding", "queries[2].image")
    assert isinstance(results[3], ServerError)
    assert "secret" not in str(results[3])


async def test_a_wrong_envelope_fails_the_batch(serve, engine, vector):
    _, client = await serve(engine)
    with pytest.raises(InvalidArgumentError, match="queries: must hold 1 to 8 queries, got 0"):
        await client.attribute_batch([])
    with pytest.raises(InvalidArgumentError, match="got 9"):
        await client.attribute_batch([query(embedding=vector(1))] * 9)
    with pytest.raises(InvalidArgumentError, match=r"options\.top_k"):
        await client.attribute_batch([query(embedding=vector(1)), query(b"x")], top_k=0)


async def test_a_batch_beyond_the_permits_names_them(serve, engine, vector):
    _, client = await serve(engine, permits=2)
    with pytest.raises(InvalidArgumentError, match="admits 2 at once"):
        await client.attribute_batch([query(embedding=vector(1))] * 3)


async def test_poison_fails_alone_and_stays_opaque(serve, engine, vector):
    _, client = await serve(engine)
    results = await client.attribute_batch([query(embedding=vector(value)) for value in (1, -13, 2)])
    assert isinstance(results[0], Answer)
    assert isinstance(results[2], Answer)
    with pytest.raises(ServerError) as caught:
        await client.attribute(embedding=vector(-13))
    assert caught.value.code == "INTERNAL"
    assert "secret" not in str(caught.value)


async def test_messages_that_cannot_be_read_name_the_field(serve, engine):
    gateway, _ = await serve(engine)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{gateway.port}") as channel:
        call = channel.unary_unary("/attributary.v1.AttributionService/Attribute")
        with pytest.raises(grpc.RpcError) as caught:
            await call(b"\x0a\x04\x22\x02\xff\xff")
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "query.prompt: must be valid UTF-8" in caught.value.details()


async def test_a_query_without_input_is_refused(stub):
    with pytest.raises(grpc.RpcError) as caught:
        await stub.Attribute(pb.AttributeRequest(query=pb.Query(prompt="x")))
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_overload_is_told_at_once_and_accepted_queries_finish(serve, engine, vector):
    gateway, client = await serve(engine, permits=2)
    engine.gate.clear()
    accepted = [asyncio.create_task(client.attribute(embedding=vector(value))) for value in (1, 2)]
    await started(engine)
    while gateway.admission.in_use < 2:
        await asyncio.sleep(0.001)
    with pytest.raises(OverloadedError) as caught:
        await client.attribute(embedding=vector(3))
    assert caught.value.retry_after_s == 0.1
    engine.gate.set()
    answers = await asyncio.gather(*accepted)
    assert [answer.items[0].similarity for answer in answers] == [1, 2]
    assert gateway.admission.in_use == 0


async def test_a_full_server_does_not_read_a_batch(serve, engine, monkeypatch):
    gateway, client = await serve(engine, permits=1)
    gateway.admission.take(1, 0)
    monkeypatch.setattr(translate, "parse", lambda *_: pytest.fail("it was read"))
    with pytest.raises(OverloadedError):
        await client.attribute_batch([query(b"x")])
    gateway.admission.release(1, 0)


async def test_a_departed_client_costs_no_work(serve, engine, vector):
    gateway, client = await serve(engine)
    engine.gate.clear()
    first = asyncio.create_task(client.attribute(embedding=vector(1)))
    await started(engine)
    leaving = asyncio.create_task(client.attribute(embedding=vector(2)))
    while gateway.admission.in_use < 2:
        await asyncio.sleep(0.001)
    leaving.cancel()
    while gateway.admission.in_use > 1:
        await asyncio.sleep(0.001)
    engine.gate.set()
    await first
    assert (await client.attribute(embedding=vector(3))).items[0].similarity == 3
    assert engine.batches == [[1], [3]]


async def test_a_passed_deadline_costs_no_work(serve, engine, vector):
    gateway, client = await serve(engine)
    engine.gate.clear()
    first = asyncio.create_task(client.attribute(embedding=vector(1)))
    await started(engine)
    with pytest.raises(DeadlineError):
        await client.attribute(embedding=vector(2), timeout_s=0.05)
    while gateway.admission.in_use > 1:
        await asyncio.sleep(0.001)
    engine.gate.set()
    await first
    await client.attribute(embedding=vector(3))
    assert engine.batches == [[1], [3]]


async def test_drain_refuses_new_calls_and_finishes_running_ones(serve, engine, vector):
    gateway, client = await serve(engine)
    engine.gate.clear()
    running = asyncio.create_task(client.attribute(embedding=vector(1)))
    results = client.attribute_stream([query(embedding=vector(2))] * 3)
    streaming = asyncio.create_task(anext(results))
    await started(engine)
    while gateway.admission.in_use < 4:
        await asyncio.sleep(0.001)
    draining = asyncio.create_task(gateway.drain())
    while not gateway.admission.closed:
        await asyncio.sleep(0.001)
    with pytest.raises(UnavailableError):
        await client.attribute(embedding=vector(5))
    engine.gate.set()
    assert (await running).items[0].similarity == 1
    assert (await streaming).items[0].similarity == 2
    rest = []
    with contextlib.suppress(UnavailableError):
        async for result in results:
            rest.append(result)
    assert len(rest) == 2
    await draining


async def test_drain_cuts_what_outlasts_the_grace(serve, engine, vector):
    gateway, client = await serve(engine)
    engine.gate.clear()
    running = asyncio.create_task(client.attribute(embedding=vector(1)))
    await started(engine)
    draining = asyncio.create_task(gateway.drain(0.05))
    with pytest.raises((UnavailableError, ServerError)):
        await running
    engine.gate.set()
    await draining


async def test_a_cut_ends_the_notice_of_a_drain_too(engine, config):
    gateway = Gateway(engine, dataclasses.replace(config, drain_notice_s=3600.0))
    await gateway.start()
    draining = asyncio.create_task(gateway.drain())
    await asyncio.sleep(0.01)
    assert not draining.done()
    await gateway.cut()
    await asyncio.wait_for(draining, 60)


@pytest.mark.parametrize(
    ("host", "address"),
    [("::1", "[::1]:5"), ("[::]", "[::]:5"), ("127.0.0.1", "127.0.0.1:5"), ("localhost", "localhost:5")],
)
def test_addresses_of_both_kinds(host, address):
    assert address_of(host, 5) == address


async def test_swap_answers_new_calls_at_once_and_drains_the_old_engine(serve, engine, fake_engine, vector):
    gateway, client = await serve(engine)
    engine.gate.clear()
    old = asyncio.create_task(client.attribute(embedding=vector(1)))
    await started(engine)
    swapping = asyncio.create_task(gateway.swap(fake_engine(bundle_id="00000000000000bb")))
    await asyncio.sleep(0)
    assert (await client.attribute(embedding=vector(2))).bundle_id == "00000000000000bb"
    assert not swapping.done()
    engine.gate.set()
    assert (await old).bundle_id == "00000000000000aa"
    await swapping


async def test_health_and_reflection(serve, engine):
    gateway, _ = await serve(engine)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{gateway.port}") as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for name in ("", "attributary.v1.AttributionService"):
            reply = await health.Check(health_pb2.HealthCheckRequest(service=name))
            assert reply.status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.RpcError) as caught:
            await health.Check(health_pb2.HealthCheckRequest(service="other"))
        assert caught.value.code() == grpc.StatusCode.NOT_FOUND
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        async for reply in stub.ServerReflectionInfo(iter([request])):
            names = {service.name for service in reply.list_services_response.service}
    assert "attributary.v1.AttributionService" in names
    assert "grpc.health.v1.Health" in names


async def test_tokens_guard_everything_but_health(serve, engine, vector, tmp_path):
    path = tmp_path / "tokens"
    path.write_text("# the batch job\nopen-sesame\n")
    gateway, client = await serve(engine, tokens_file=path)
    with pytest.raises(ServerError) as caught:
        await client.attribute(embedding=vector(1))
    assert caught.value.code == "UNAUTHENTICATED"
    with pytest.raises(ServerError):
        async for _ in client.attribute_stream([query(embedding=vector(1))]):
            pass
    address = f"127.0.0.1:{gateway.port}"
    async with AsyncClient(address, token="wrong") as wrong:
        with pytest.raises(ServerError):
            await wrong.describe()
    async with AsyncClient(address, token="open-sesame") as right:
        assert (await right.attribute(embedding=vector(1))).items
    async with grpc.aio.insecure_channel(address) as channel:
        reply = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        assert reply.status == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.parametrize("text", ["", "# only a comment\n"])
async def test_a_token_file_without_tokens_is_refused(engine, config, tmp_path, text):
    path = tmp_path / "tokens"
    path.write_text(text)
    with pytest.raises(InvalidArgumentError, match="tokens_file"):
        Gateway(engine, dataclasses.replace(config, tokens_file=path))


async def test_a_taken_port_is_a_clear_error(serve, engine, fake_engine, config):
    gateway, _ = await serve(engine)
    second = Gateway(fake_engine(), dataclasses.replace(config, port=gateway.port))
    with pytest.raises(InvalidArgumentError, match="port"):
        await second.start()


async def test_metrics_page(serve, engine, vector):
    gateway, client = await serve(engine, metrics_port=0)
    await client.attribute(embedding=vector(1))
    with pytest.raises(InvalidArgumentError):
        await client.attribute(b"x")

    def page():
        with urllib.request.urlopen(f"http://127.0.0.1:{gateway.metrics_port}/metrics") as reply:
            return reply.read().decode()

    text = await asyncio.to_thread(page)
    for line in (
        'attributary_requests_total{code="OK",method="Attribute"} 1.0',
        'attributary_requests_total{code="INVALID_ARGUMENT",method="Attribute"} 1.0',
        'attributary_request_seconds_count{method="Attribute"} 2.0',
        'attributary_phase_seconds_bucket{le="0.0001",phase="search"} 0.0',
        'attributary_phase_seconds_bucket{le="0.0005",phase="search"} 1.0',
        'attributary_batch_size_count{lane="search"} 1.0',
        'attributary_queue_length{lane="encode"} 0.0',
        "attributary_permits 8.0",
        "attributary_permits_in_use 0.0",
        'attributary_dropped_total{reason="departed"} 0.0',
        'attributary_bundle_info{alias="default",bundle_id="00000000000000aa",encoder="fake",'
        'index="Flat",version="1"} 1.0',
    ):
        assert line in text


async def test_a_message_above_the_limit_is_a_clear_error(serve, engine):
    _, client = await serve(engine, max_message_bytes=1000)
    with pytest.raises(InvalidArgumentError, match="larger than max"):
        await client.attribute(b"x" * 2000)
    assert (await client.describe()).dim == 4


def test_message_limit_is_what_a_picture_needs(config, engine):
    limits = dataclasses.replace(engine.limits, max_image_bytes=10_000_000, max_image_pixels=10**9)
    assert message_limit(config, limits) == 10_000_000 + (1 << 20)
    limits = dataclasses.replace(limits, max_image_bytes=1000)
    assert message_limit(config, limits) == 5 << 20
    assert message_limit(config, dataclasses.replace(limits, max_image_bytes=2**40)) == 2**31 - 1
    assert message_limit(dataclasses.replace(config, max_message_bytes=7), limits) == 7


async def test_what_an_engine_raises_is_internal_whatever_it_is_called(serve, engine, vector):
    engine.run = lambda batch: (_ for _ in ()).throw(InvalidArgumentError("embeddings", "must be finite"))
    _, client = await serve(engine)
    with pytest.raises(ServerError) as caught:
        await client.attribute(embedding=vector(1))
    assert caught.value.code == "INTERNAL"
