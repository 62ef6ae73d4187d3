"""Distributed traces: W3C trace context in, OpenTelemetry spans out, one a call and one a phase of each query.

Off unless asked for, and without OpenTelemetry installed nothing here imports it. Where spans go, how many are kept and
what the service is called is said by OpenTelemetry's own environment variables (OTEL_EXPORTER_OTLP_ENDPOINT,
OTEL_TRACES_SAMPLER, OTEL_SERVICE_NAME, ...).
"""

from __future__ import annotations

import os
from contextvars import ContextVar
from time import perf_counter, time_ns
from typing import TYPE_CHECKING, Any, Final

import structlog
from google.rpc import code_pb2

from attributary.attribution.types import PHASES, Timings
from attributary.errors import InvalidArgumentError

from .config import GatewayConfig

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span, Tracer

# A stream may hold a million queries, a trace should not.
_MAX_QUERIES: Final = 64
_PACKAGE: Final = "attributary.v1"
_SERVER_FAULTS: Final = frozenset(
    {"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}
)


class CallTrace:
    """The span of one call, and those below it."""

    def __init__(self, tracer: Tracer, span: Span) -> None:
        self._tracer, self._span = tracer, span
        self._recorded = 0

    def add_phases(self, timings: Timings, arrived: float) -> None:
        """Add the phases of a query that arrived at `arrived` on perf_counter, end to end in the order of its way.

        How long each took was measured, where it lies was not: waiting, in pieces between them, comes first.
        """
        from opentelemetry.trace import set_span_in_context

        if not self._span.is_recording() or self._recorded >= _MAX_QUERIES:
            return
        self._recorded += 1
        parent = set_span_in_context(self._span)
        at = time_ns() - int((perf_counter() - arrived) * 1e9)
        for phase in PHASES:
            if spent := getattr(timings, phase):
                span = self._tracer.start_span(phase, parent, start_time=at)
                at += int(spent * 1e6)
                span.end(at)

    def end(self, code: str) -> None:
        """The call has ended with a gRPC code."""
        from opentelemetry.trace import Status, StatusCode

        self._span.set_attribute("rpc.grpc.status_code", code_pb2.Code.Value(code))
        if code in _SERVER_FAULTS:
            self._span.set_status(Status(StatusCode.ERROR, code))
        self._span.end()


_CURRENT: ContextVar[CallTrace | None] = ContextVar("attributary_trace", default=None)


def add_phases(timings: Timings, arrived: float) -> None:
    """Add a query's phases to the trace of the call that is being served, if there is one."""
    if (trace := _CURRENT.get()) is not None:
        trace.add_phases(timings, arrived)


class Tracing:
    """Begins the trace of each call."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("attributary")

    def begin(self, service: str, method: str, metadata: Any) -> CallTrace:
        """Begin the span of a call in this task, under the one that its headers name (`traceparent`)."""
        from opentelemetry.trace import SpanKind, format_trace_id
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        carrier = {key: value for key, value in metadata or () if isinstance(value, str)}
        span = self._tracer.start_span(
            f"{_PACKAGE}.{service}/{method}",
            TraceContextTextMapPropagator().extract(carrier),
            SpanKind.SERVER,
            {"rpc.system": "grpc", "rpc.service": f"{_PACKAGE}.{service}", "rpc.method": method},
        )
        # The lines of this call in the log find their trace.
        structlog.contextvars.bind_contextvars(trace_id=format_trace_id(span.get_span_context().trace_id))
        trace = CallTrace(self._tracer, span)
        _CURRENT.set(trace)
        return trace

    def close(self) -> None:
        """Send what is left; blocks."""
        self._provider.shutdown()


def tracing_of(config: GatewayConfig) -> Tracing | None:
    """Return what the config asks for, None for nothing; raises InvalidArgumentError without OpenTelemetry."""
    if not config.tracing:
        return None
    try:
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        target = exporter()
    except ImportError as error:
        raise InvalidArgumentError("tracing", f"needs attributary[otel]: {error}") from None
    named = "OTEL_SERVICE_NAME" in os.environ
    provider = TracerProvider(resource=Resource.create({} if named else {SERVICE_NAME: "attributary"}))
    provider.add_span_processor(BatchSpanProcessor(target))
    return Tracing(provider)


def exporter() -> SpanExporter:
    """Where spans go: OTLP over HTTP."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return OTLPSpanExporter()
