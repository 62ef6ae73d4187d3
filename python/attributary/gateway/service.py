"""The servicer: parse, admit, hand to the pipeline, build the reply. Nothing here computes.

Methods take and return bytes: parsing here, not in gRPC, is what lets a message that cannot be read be
answered with the field at fault.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from time import monotonic, perf_counter
from typing import Any, TypeAlias, TypeVar

import grpc
import structlog
from google.protobuf.message import Message
from grpc import aio

from attributary.attribution.types import Attribution, Options
from attributary.attribution.view import View
from attributary.errors import InvalidArgumentError, OverloadedError
from attributary.v1 import attribution_pb2 as pb

from . import listing, translate
from .admission import Admission
from .config import GatewayConfig
from .errors import abort, code_name, is_expected, presentable, to_result, to_status
from .metrics import Metrics
from .pipeline import Pipeline, milliseconds_since
from .registry import Registry

log = structlog.get_logger(__name__)

SERVICE = pb.DESCRIPTOR.services_by_name["AttributionService"].full_name
Context: TypeAlias = aio.ServicerContext[bytes, bytes]
R = TypeVar("R", bound=Message)

_NO_OPTIONS = Options()


class AttributionService:
    """The unary methods of attributary.v1.AttributionService."""

    def __init__(
        self, registry: Registry, admission: Admission, metrics: Metrics, config: GatewayConfig
    ) -> None:
        self.registry = registry
        self.admission = admission
        self.metrics = metrics
        self.config = config
        # Asked here once: even a logger that stays silent costs a query some microseconds.
        self.log_requests = config.log_level == "debug"

    async def attribute(self, data: bytes, context: Context) -> bytes:
        """One query, one answer."""
        arrived = perf_counter()
        self.admission.take(1, len(data))
        try:
            request = translate.parse(pb.AttributeRequest, data)
            answer = await self.answer(request, deadline_of(context), arrived)
            return pb.AttributeResponse(attribution=answer).SerializeToString()
        finally:
            self.admission.release(1, len(data))

    async def attribute_batch(self, data: bytes, context: Context) -> bytes:
        """Many queries, one reply; a wrong query is an error in its own result."""
        arrived = perf_counter()
        # How many queries it holds is known only once it is read; a server that is full does not read it.
        self.admission.check(1, len(data))
        request = translate.parse(pb.AttributeBatchRequest, data)
        pipeline = self.registry.find(request.bundle_id).pipeline
        count = len(request.queries)
        most = pipeline.engine.limits.max_batch_queries
        if not 1 <= count <= most:
            raise InvalidArgumentError("queries", f"must hold 1 to {most} queries, got {count}")
        if count > self.admission.permits:
            raise InvalidArgumentError(
                "queries", f"holds {count} queries, the server admits {self.admission.permits} at once"
            )
        self.admission.take(count, len(data))
        pipeline.enter()
        try:
            results = await self._answer_all(pipeline, request, deadline_of(context), arrived)
            return pb.AttributeBatchResponse(results=results).SerializeToString()
        finally:
            pipeline.leave()
            self.admission.release(count, len(data))

    async def embed(self, data: bytes, context: Context) -> bytes:
        """The embedding of one picture, to ask with later."""
        arrived = perf_counter()
        self.admission.take(1, len(data))
        try:
            request = translate.parse(pb.EmbedRequest, data)
            with self.registry.use(request.bundle_id) as pipeline:
                query = translate.to_query(request.query, pipeline.engine.limits, "query")
                found = await pipeline.embed(query, "query", deadline_of(context), arrived)
                return translate.from_embedding(pipeline.engine, *found).SerializeToString()
        finally:
            self.admission.release(1, len(data))

    async def get_item(self, data: bytes, context: Context) -> bytes:
        """One training item by id."""
        request = translate.parse(pb.GetItemRequest, data)
        engine = self.registry.find(request.bundle_id).pipeline.engine
        return pb.GetItemResponse(item=translate.item(engine, request.id)).SerializeToString()

    async def list_items(self, data: bytes, context: Context) -> bytes:
        """Training items by ascending id, a page at a time."""
        request = translate.parse(pb.ListItemsRequest, data)
        with self.registry.use(request.bundle_id) as pipeline:
            return await self._page(len(data), listing.items, pipeline, request)

    async def list_creators(self, data: bytes, context: Context) -> bytes:
        """Creators by name, a page at a time."""
        request = translate.parse(pb.ListCreatorsRequest, data)
        with self.registry.use(request.bundle_id) as pipeline:
            return await self._page(len(data), listing.creators, pipeline, request)

    async def describe_bundle(self, data: bytes, context: Context) -> bytes:
        """What is served."""
        request = translate.parse(pb.DescribeBundleRequest, data)
        engine = self.registry.find(request.bundle_id).pipeline.engine
        return translate.describe(engine).SerializeToString()

    async def _page(
        self, size: int, make: Callable[[View, R], Message], pipeline: Pipeline, request: R
    ) -> bytes:
        # A look at every row: as much work as a query, and not for the event loop.
        self.admission.take(1, size)
        try:
            page = await asyncio.to_thread(make, pipeline.engine.view, request)
            return page.SerializeToString()
        finally:
            self.admission.release(1, size)

    async def answer(self, request: pb.AttributeRequest, deadline: float, arrived: float) -> pb.Attribution:
        """Answer one request; raises the errors of `attributary.errors`."""
        try:
            with self.registry.use(request.bundle_id) as pipeline:
                options = (
                    translate.to_options(request.options) if request.HasField("options") else _NO_OPTIONS
                )
                query = translate.to_query(request.query, pipeline.engine.limits, "query")
                answer = await pipeline.submit(query, options, "query", deadline, arrived)
                return self._reply(pipeline, answer, request.options.timings, arrived)
        except Exception as error:
            self.metrics.query(code_name(error))
            raise

    async def _answer_all(
        self, pipeline: Pipeline, request: pb.AttributeBatchRequest, deadline: float, arrived: float
    ) -> list[pb.AttributeResult]:
        options = translate.to_options(request.options)
        tasks: list[asyncio.Future[Attribution] | Exception] = []
        for number, message in enumerate(request.queries):
            field = f"queries[{number}]"
            try:
                query = translate.to_query(message, pipeline.engine.limits, field)
                tasks.append(pipeline.submit(query, options, field, deadline, arrived))
            except Exception as error:
                tasks.append(presentable(error, "prepare"))
        outcomes = await _settle(tasks)
        # Options belong to the envelope: what is wrong with them is wrong with every query.
        for outcome in outcomes:
            if isinstance(outcome, InvalidArgumentError) and outcome.field.startswith("options"):
                raise outcome
        results = []
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                self.metrics.query(code_name(outcome))
                results.append(pb.AttributeResult(error=to_result(outcome)))
            else:
                reply = self._reply(pipeline, outcome, request.options.timings, arrived)
                results.append(pb.AttributeResult(attribution=reply))
        return results

    def _reply(
        self, pipeline: Pipeline, answer: Attribution, with_timings: bool, arrived: float
    ) -> pb.Attribution:
        started = perf_counter()
        reply = translate.from_attribution(answer, pipeline.bundle_id, pipeline.bundle_version)
        answer.timings.assemble += milliseconds_since(started)
        self.metrics.query("OK", answer.timings)
        if with_timings:
            reply.timings.CopyFrom(translate.from_timings(answer.timings, milliseconds_since(arrived)))
        return reply


async def _settle(tasks: list[asyncio.Future[Attribution] | Exception]) -> list[Attribution | Exception]:
    """Wait for all; a caller who leaves meanwhile cancels all."""
    futures = [task for task in tasks if isinstance(task, asyncio.Future)]
    await asyncio.gather(*futures, return_exceptions=True)
    outcomes: list[Attribution | Exception] = []
    for task in tasks:
        if isinstance(task, Exception):
            outcomes.append(task)
        else:
            error = task.exception()
            outcomes.append(error if isinstance(error, Exception) else task.result())
    return outcomes


def deadline_of(context: Context) -> float:
    """Return the caller's deadline on the monotonic clock, infinity without one."""
    left = context.time_remaining()
    return math.inf if left is None else monotonic() + left


Method: TypeAlias = Callable[[bytes, Context], Awaitable[bytes]]
StreamMethod: TypeAlias = Callable[[AsyncIterator[bytes], Context], Awaitable[None]]


def guarded(name: str, method: Method, metrics: Metrics, log_requests: bool) -> Method:
    """Wrap a unary method: every end of a call is counted, logged, and told as a status with details."""

    async def call(data: bytes, context: Context) -> bytes:
        started = perf_counter()
        code = "OK"
        try:
            return await method(data, context)
        except asyncio.CancelledError:
            code = ended_early(context)
            raise
        except Exception as error:
            code = code_name(error)
            status = to_status(report(name, error))
        finally:
            seconds = perf_counter() - started
            metrics.call(name, code, seconds)
            if log_requests:
                log.debug("request", method=name, code=code, ms=round(seconds * 1e3, 3))
        return await abort(context, status)

    return call


def ended_early(context: Context) -> str:
    """Say why a call was cancelled: its deadline, or its caller."""
    left = context.time_remaining()
    return "DEADLINE_EXCEEDED" if left is not None and left <= 0 else "CANCELLED"


def report(name: str, error: Exception) -> Exception:
    """Log what went wrong with a call, and return the error that its caller may see."""
    if is_expected(error):
        # An overloaded server must not spend its time on telling so; the metrics count it.
        tell = log.debug if isinstance(error, OverloadedError) else log.warning
        # The kind and the field, not the text: messages can quote what a caller sent.
        tell("refused", method=name, code=code_name(error), field=getattr(error, "field", None))
    return presentable(error, name)


def method_handlers(service: AttributionService, stream: StreamMethod) -> grpc.GenericRpcHandler:
    """Return the handlers of the whole service; `stream` is AttributeStream."""
    unary: dict[str, Method] = {
        "Attribute": service.attribute,
        "AttributeBatch": service.attribute_batch,
        "Embed": service.embed,
        "GetItem": service.get_item,
        "ListItems": service.list_items,
        "ListCreators": service.list_creators,
        "DescribeBundle": service.describe_bundle,
    }
    handlers: dict[str, Any] = {
        name: grpc.unary_unary_rpc_method_handler(
            guarded(name, method, service.metrics, service.log_requests)
        )
        for name, method in unary.items()
    }
    handlers["AttributeStream"] = grpc.stream_stream_rpc_method_handler(stream)
    return grpc.method_handlers_generic_handler(SERVICE, handlers)
