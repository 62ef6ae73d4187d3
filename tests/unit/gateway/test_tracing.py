"""Traces: a call goes on in its caller's trace, with a span for each phase of its queries."""

import sys

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from attributary.client import query
from attributary.errors import InvalidArgumentError
from attributary.gateway import tracing


@pytest.fixture
async def traced(serve, engine, monkeypatch):
    """(client, function that ends the server and returns its spans by name)."""
    spans = InMemorySpanExporter()
    monkeypatch.setattr(tracing, "exporter", lambda: spans)
    gateway, client = await serve(engine, tracing=True)

    async def ended():
        await gateway.drain(0)
        found = {}
        for span in spans.get_finished_spans():
            found.setdefault(span.name, []).append(span)
        return found

    return client, ended


async def test_a_call_goes_on_in_its_callers_trace(traced, vector):
    client, ended = traced
    with TracerProvider().get_tracer("caller").start_as_current_span("generate") as caller:
        await client.attribute(embedding=vector(1))
    found = await ended()
    (call,) = found["attributary.v1.AttributionService/Attribute"]
    assert call.kind is SpanKind.SERVER
    assert call.context.trace_id == caller.get_span_context().trace_id
    assert call.parent.span_id == caller.get_span_context().span_id
    assert call.attributes["rpc.grpc.status_code"] == 0
    (search,) = found["search"]
    assert search.parent.span_id == call.context.span_id
    assert search.end_time - search.start_time == pytest.approx(0.5e6, abs=2)
    assert set(found) <= {call.name, "queue", "search", "assemble"}


async def test_errors_batches_and_streams(traced, vector):
    client, ended = traced
    with pytest.raises(InvalidArgumentError):
        await client.attribute(embedding=[1, 2])
    await client.attribute_batch([query(embedding=vector(1))] * 3)
    async for _ in client.attribute_stream([query(embedding=vector(1))] * 100):
        pass
    found = await ended()
    (refused,) = found["attributary.v1.AttributionService/Attribute"]
    # The caller's mistake is none of the server's.
    assert (refused.attributes["rpc.grpc.status_code"], refused.status.status_code) == (3, StatusCode.UNSET)
    (batch,) = found["attributary.v1.AttributionService/AttributeBatch"]
    (stream,) = found["attributary.v1.AttributionService/AttributeStream"]
    below = [span.parent.span_id for span in found["search"]]
    assert below.count(batch.context.span_id) == 3
    assert below.count(stream.context.span_id) == 64


async def test_without_opentelemetry_the_setting_says_what_is_missing(serve, engine, monkeypatch):
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.resources", None)
    with pytest.raises(InvalidArgumentError, match=r"tracing: needs attributary\[otel\]"):
        await serve(engine, tracing=True)
