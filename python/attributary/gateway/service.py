"""The servicer: parse, admit, hand to the pipeline, build the reply. Nothing here computes.

Methods take and return bytes: parsing here, not in gRPC, is what lets a message that cannot be read be
answered with the field at fault.
"""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, TypeAlias
from weakref import WeakKeyDictionary

import grpc

from attributary.attribution.prepare import ms_since
from attributary.attribution.types import Attribution, Options, Query
from attributary.errors import InvalidArgumentError, NotFoundError, PreconditionError, needs
from attributary.receipts.statement import QueryFacts, answer_statement, bundle_facts
from attributary.v1 import attribution_pb2 as pb

from . import callers, listing, tracing, translate
from .access import check_role
from .admission import Admission
from .calls import Call, Front, Kind, StreamMethod, UnaryMethod, deadline_of
from .config import GatewayConfig
from .errors import code_name, presentable, to_result
from .metrics import Metrics
from .pipeline import Pipeline
from .query_log import QueryLog, redact
from .registry import Registry
from .reload import Watched
from .reply import Answer, embedded, timings, whole
from .translate import check_outline

if TYPE_CHECKING:
    from attributary.receipts.keys import KeyFile

SERVICE = pb.DESCRIPTOR.services_by_name["AttributionService"].full_name
Context: TypeAlias = Call
_NO_OPTIONS = Options()
_TIMINGS = pb.Attribution.TIMINGS_FIELD_NUMBER


class AttributionService:
    """The unary methods of attributary.v1.AttributionService."""

    def __init__(
        self,
        registry: Registry,
        admission: Admission,
        metrics: Metrics,
        config: GatewayConfig,
        receipts: Receipts,
    ) -> None:
        self.registry = registry
        self.admission = admission
        self.metrics = metrics
        self.config = config
        self.receipts = receipts
        self._hidden = frozenset(filter(None, config.redact.split(",")))
        self.query_log = QueryLog.of(config)

    async def attribute(self, data: bytes, context: Context) -> bytes:
        """One query, one answer."""
        arrived = perf_counter()
        check_outline(data, pb.AttributeRequest.DESCRIPTOR)
        request = translate.parse(pb.AttributeRequest, data)
        answer = await self.answer(request, deadline_of(context), arrived)
        return embedded(1, answer)

    async def attribute_batch(self, data: bytes, context: Context) -> bytes:
        """Many queries, one reply; a wrong query is an error in its own result."""
        arrived = perf_counter()
        most = self.registry.current.engine.limits.max_batch_queries
        # Before it is parsed: a message of empty queries takes a hundred times its size.
        check_outline(data, pb.AttributeBatchRequest.DESCRIPTOR, {"queries": most})
        request = translate.parse(pb.AttributeBatchRequest, data)
        pipeline = self.registry.find(request.bundle_id).pipeline
        count = len(request.queries)
        if not 1 <= count <= most:
            raise InvalidArgumentError("queries", f"must hold 1 to {most} queries, got {count}")
        if count > self.admission.permits:
            raise InvalidArgumentError(
                "queries", f"holds {count} queries, the server admits {self.admission.permits} at once"
            )
        self.admission.widen(count, 0)
        pipeline.enter()
        try:
            results = await self._answer_all(pipeline, request, deadline_of(context), arrived)
            return b"".join(embedded(1, result) for result in results)
        finally:
            pipeline.leave()
            self.admission.release(count - 1, 0)

    async def embed(self, data: bytes, context: Context) -> bytes:
        """The embedding of one picture, to ask with later."""
        arrived = perf_counter()
        request = translate.parse(pb.EmbedRequest, data)
        with self.registry.use(request.bundle_id) as pipeline:
            query = translate.to_query(request.query, pipeline.engine.limits, "query")
            found = await pipeline.embed(query, "query", deadline_of(context), arrived)
            tracing.add_phases(found[0].timings, arrived)
            return translate.from_embedding(pipeline.engine, *found).SerializeToString()

    async def get_item(self, data: bytes, context: Context) -> bytes:
        """One training item by id."""
        request = translate.parse(pb.GetItemRequest, data)
        engine = self.registry.find(request.bundle_id).pipeline.engine
        return pb.GetItemResponse(item=translate.item(engine, request.id)).SerializeToString()

    async def get_thumbnail(self, data: bytes, context: Context) -> bytes:
        """A small picture of one training item."""
        request = translate.parse(pb.GetThumbnailRequest, data)
        picture = self.thumbnail(request.bundle_id, request.id)
        if picture is None:
            raise NotFoundError("thumbnail", str(request.id))
        return pb.GetThumbnailResponse(image=picture).SerializeToString()

    def thumbnail(self, bundle_id: str, item_id: int) -> bytes | None:
        """An item's small picture as callers may see it; raises NotFoundError for an item that is not there."""
        snapshot = self.registry.find(bundle_id).pipeline.engine.snapshot
        return snapshot.thumbnail(item_id) if self.config.thumbnails == "callers" else None

    async def list_items(self, data: bytes, context: Context) -> bytes:
        """Training items by ascending id, a page at a time."""
        request = translate.parse(pb.ListItemsRequest, data)
        with self.registry.use(request.bundle_id) as pipeline:
            page = await pipeline.in_turn(partial(listing.items, pipeline.engine.snapshot, request))
            return page.SerializeToString()

    async def list_creators(self, data: bytes, context: Context) -> bytes:
        """Creators by name, a page at a time."""
        request = translate.parse(pb.ListCreatorsRequest, data)
        with self.registry.use(request.bundle_id) as pipeline:
            page = await pipeline.in_turn(partial(listing.creators, pipeline.engine.snapshot, request))
            return page.SerializeToString()

    async def describe_bundle(self, data: bytes, context: Context) -> bytes:
        """What is served."""
        request = translate.parse(pb.DescribeBundleRequest, data)
        pipeline = self.registry.find(request.bundle_id).pipeline
        engine, (snapshot, known) = pipeline.engine, pipeline.described
        if engine.snapshot is snapshot:
            return known
        snapshot, described = engine.snapshot, translate.describe(engine)
        if self.config.thumbnails == "callers":
            described.thumbnail_count = len(engine.bundle.thumbnails or ())
        pipeline.described = snapshot, described.SerializeToString()
        return pipeline.described[1]

    async def list_receipt_keys(self, data: bytes, context: Context) -> bytes:
        """The public keys of receipts."""
        translate.parse(pb.ListReceiptKeysRequest, data)
        return self.receipts.list_keys().SerializeToString()

    async def answer(self, request: pb.AttributeRequest, deadline: float, arrived: float) -> bytes:
        """Answer one request with a serialised pb.Attribution; raises the errors of `attributary.errors`."""
        try:
            with self.registry.use(request.bundle_id) as pipeline:
                options = (
                    translate.to_options(request.options) if request.HasField("options") else _NO_OPTIONS
                )
                if options.digests:
                    self.receipts.check()
                self._check_roles(request.options)
                _check_input(request.query)
                query = translate.to_query(request.query, pipeline.engine.limits, "query")
                answer = await pipeline.submit(query, options, "query", deadline, arrived)
                receipt = await self._receipt(pipeline, answer, query, options)
                return self._reply(pipeline, query, answer, request.options.timings, arrived, receipt)
        except Exception as error:
            self.metrics.query(code_name(error))
            raise

    async def _answer_all(
        self, pipeline: Pipeline, request: pb.AttributeBatchRequest, deadline: float, arrived: float
    ) -> list[bytes]:
        """One serialised pb.AttributeResult a query."""
        options = translate.to_options(request.options)
        if options.digests:
            self.receipts.check()
        # Of the envelope: what it may not ask is wrong with every query.
        self._check_roles(request.options)
        queries: list[Query] = []
        tasks: list[asyncio.Future[Answer] | Exception] = []
        for number, message in enumerate(request.queries):
            field = f"queries[{number}]"
            try:
                _check_input(message)
                query = translate.to_query(message, pipeline.engine.limits, field)
                queries.append(query)
                tasks.append(pipeline.submit(query, options, field, deadline, arrived))
            except Exception as error:
                # One entry for each query, also where reading it failed.
                queries[number:] = [Query()]
                tasks.append(presentable(error, "prepare"))
        outcomes = await _settle(tasks)
        # Options belong to the envelope: what is wrong with them is wrong with every query.
        for outcome in outcomes:
            if isinstance(outcome, InvalidArgumentError) and outcome.field.startswith("options"):
                raise outcome
        results = []
        for query, outcome in zip(queries, outcomes, strict=True):
            try:
                if isinstance(outcome, Exception):
                    raise outcome
                receipt = await self._receipt(pipeline, outcome, query, options)
                reply = self._reply(pipeline, query, outcome, request.options.timings, arrived, receipt)
                results.append(embedded(1, reply))
            except Exception as error:
                error = presentable(error, "reply")
                self.metrics.query(code_name(error))
                results.append(pb.AttributeResult(error=to_result(error)).SerializeToString())
        return results

    async def _receipt(self, pipeline: Pipeline, answer: Answer, query: Query, options: Options) -> bytes:
        """The receipt of an answer, empty where none was asked for."""
        if not options.digests:
            return b""
        return await self.receipts.sign(pipeline, whole(answer), QueryFacts(query.prompt, options.filter))

    def _check_roles(self, options: pb.Options) -> None:
        """Raise PermissionDeniedError for what a caller may not ask for: to guess at names, or what is hidden."""
        owner = callers.current().owner
        named = options.filter.include_creators or options.filter.exclude_creators
        if named and "creator" in self._hidden:
            check_role(owner, "read-items")
        if options.receipt and self._hidden:
            # What is signed is signed whole.
            check_role(owner, "read-items")

    def _reply(
        self,
        pipeline: Pipeline,
        query: Query,
        answer: Answer,
        with_timings: bool,
        arrived: float,
        receipt: bytes = b"",
    ) -> bytes:
        started = perf_counter()
        reply = pipeline.replies.write(answer, receipt)
        if self.query_log is not None or self._hidden:
            reply = self._noted(query, reply)
        answer.timings.assemble += ms_since(started)
        self.metrics.query("OK", answer.timings)
        tracing.add_phases(answer.timings, arrived)
        if with_timings:
            spent = timings(answer.timings, ms_since(arrived))
            reply += embedded(_TIMINGS, spent)
        return reply

    def _noted(self, query: Query, reply: bytes) -> bytes:
        """A reply that has been written to the query log, without what its caller may not see."""
        message, caller = pb.Attribution.FromString(reply), callers.current()
        if self.query_log is not None:
            self.query_log.put(caller.name, query, message)
        if not self._hidden or caller.owner.may("read-items"):
            return reply
        redact(message, self._hidden)
        return message.SerializeToString()


def _check_input(query: pb.Query) -> None:
    """Raise PermissionDeniedError where a caller may not choose an embedding."""
    if query.HasField("embedding"):
        check_role(callers.current().owner, "embeddings")


async def _settle(tasks: list[asyncio.Future[Answer] | Exception]) -> list[Answer | Exception]:
    """Wait for all; a caller who leaves meanwhile cancels all."""
    futures = [task for task in tasks if isinstance(task, asyncio.Future)]
    await asyncio.gather(*futures, return_exceptions=True)
    outcomes: list[Answer | Exception] = []
    for task in tasks:
        if isinstance(task, Exception):
            outcomes.append(task)
        else:
            error = task.exception()
            outcomes.append(error if isinstance(error, Exception) else task.result())
    return outcomes


def unary_methods(service: AttributionService) -> dict[str, tuple[UnaryMethod, Kind]]:
    """Return the methods with one message and one reply, and what each needs; every transport serves these."""
    # A page looks at every row: as much work as a query.
    query, page = Kind(permit=True), Kind(permit=True, need="read-items")
    return {
        "Attribute": (service.attribute, query),
        "AttributeBatch": (service.attribute_batch, Kind(permit=True, bulk=True)),
        "Embed": (service.embed, query),
        "GetItem": (service.get_item, Kind(need="read-items")),
        "GetThumbnail": (service.get_thumbnail, Kind()),
        "ListItems": (service.list_items, page),
        "ListCreators": (service.list_creators, page),
        "DescribeBundle": (service.describe_bundle, Kind(need="any")),
        "ListReceiptKeys": (service.list_receipt_keys, Kind(need="any")),
    }


def method_handlers(
    service: AttributionService, front: Front, stream: StreamMethod
) -> grpc.GenericRpcHandler:
    """Return the handlers of the whole service; `stream` is AttributeStream."""
    handlers: dict[str, Any] = {
        name: front.unary(name, method, kind) for name, (method, kind) in unary_methods(service).items()
    }
    handlers["AttributeStream"] = front.stream("AttributeStream", stream, Kind(bulk=True))
    return grpc.method_handlers_generic_handler(SERVICE, handlers)


class Receipts:
    """What signs the answers of a server; `path` None signs nothing. Used from the event loop."""

    def __init__(self, path: Path | None) -> None:
        self._keys: Watched[KeyFile] | None = None
        # Hashing a manifest takes longer than signing; it never changes.
        self._bundles: WeakKeyDictionary[Pipeline, dict[str, Any]] = WeakKeyDictionary()
        if path is not None:
            with needs("receipts"):
                from attributary.receipts.keys import read_key_file
            self._keys = Watched(lambda: read_key_file(path), [path])

    def check(self) -> None:
        """Raise PreconditionError if this server signs nothing."""
        if self._keys is None:
            raise PreconditionError(
                "options.receipt", "this server signs no receipts; start it with --receipt-key-file"
            )

    async def sign(self, pipeline: Pipeline, answer: Attribution, query: QueryFacts) -> bytes:
        """Return the receipt of an answer that was asked for with digests."""
        assert self._keys is not None
        assert answer.picture is not None
        if pipeline not in self._bundles:
            self._bundles[pipeline] = bundle_facts(pipeline.engine.bundle.manifest)
        return await asyncio.to_thread(_sign, self._keys.value, answer, self._bundles[pipeline], query)

    def list_keys(self) -> pb.ListReceiptKeysResponse:
        """The public keys, the one that signs first."""
        keys = () if self._keys is None else self._keys.value.public
        return pb.ListReceiptKeysResponse(
            keys=[
                pb.ReceiptKey(key_id=key.key_id, pem=key.pem(), signs=place == 0)
                for place, key in enumerate(keys)
            ]
        )


def _sign(keys: KeyFile, answer: Attribution, bundle: dict[str, Any], query: QueryFacts) -> bytes:
    from attributary.receipts.envelope import seal

    assert answer.picture is not None
    return seal(answer_statement(answer, answer.picture, bundle, query), keys.signer)
