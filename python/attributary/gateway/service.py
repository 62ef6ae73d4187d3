"""The servicer: parse, admit, hand to the pipeline, build the reply. Nothing here computes.

Methods of queries take and return bytes: they look at a message before they parse it, and write replies themselves.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from attributary.attribution.prepare import ms_since
from attributary.attribution.types import Attribution, Options, Query
from attributary.errors import InvalidArgumentError, NotFoundError, PreconditionError, needs
from attributary.receipts.statement import QueryFacts, answer_statement, bundle_facts
from attributary.v1 import attribution_pb2 as pb

from . import callers, listing, tracing, translate
from .access import check_role
from .admission import Admission
from .calls import Call, Kind, UnaryMethod, deadline_of
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
        self.registry, self.admission, self.metrics = registry, admission, metrics
        self.config, self.receipts = config, receipts
        self._hidden = frozenset(filter(None, config.redact.split(",")))
        self.query_log = None
        if config.query_log is not None:
            self.query_log = QueryLog(config.query_log, config.query_log_days, config.query_log_prompts)

    async def attribute(self, data: bytes, context: Call) -> bytes:
        """One query, one answer."""
        arrived = perf_counter()
        check_outline(data, pb.AttributeRequest.DESCRIPTOR)
        request = translate.parse(pb.AttributeRequest, data)
        answer = await self.answer(request, deadline_of(context), arrived)
        return embedded(1, answer)

    async def attribute_batch(self, data: bytes, context: Call) -> bytes:
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

    async def embed(self, data: bytes, context: Call) -> bytes:
        """The embedding of one picture, to ask with later."""
        arrived = perf_counter()
        request = translate.parse(pb.EmbedRequest, data)
        with self.registry.use(request.bundle_id) as pipeline:
            query = translate.to_query(request.query, pipeline.engine.limits, "query")
            found = await pipeline.embed(query, "query", deadline_of(context), arrived)
            tracing.add_phases(found[0].timings, arrived)
            return translate.from_embedding(pipeline.engine, *found).SerializeToString()

    async def get_item(self, request: pb.GetItemRequest, context: Call) -> pb.GetItemResponse:
        """One training item by id."""
        engine = self.registry.find(request.bundle_id).pipeline.engine
        return pb.GetItemResponse(item=translate.item(engine, request.id))

    async def get_thumbnail(self, request: pb.GetThumbnailRequest, context: Call) -> pb.GetThumbnailResponse:
        """A small picture of one training item."""
        picture = self.thumbnail(request.bundle_id, request.id)
        if picture is None:
            raise NotFoundError("thumbnail", str(request.id))
        return pb.GetThumbnailResponse(image=picture)

    def thumbnail(self, bundle_id: str, item_id: int) -> bytes | None:
        """An item's small picture as callers may see it; raises NotFoundError for an item that is not there."""
        snapshot = self.registry.find(bundle_id).pipeline.engine.snapshot
        return snapshot.thumbnail(item_id) if self.config.thumbnails == "callers" else None

    async def list_items(self, request: pb.ListItemsRequest, context: Call) -> pb.ListItemsResponse:
        """Training items by ascending id, a page at a time."""
        with self.registry.use(request.bundle_id) as pipeline:
            return await pipeline.in_turn(partial(listing.items, pipeline.engine.snapshot, request))

    async def list_creators(self, request: pb.ListCreatorsRequest, context: Call) -> pb.ListCreatorsResponse:
        """Creators by name, a page at a time."""
        with self.registry.use(request.bundle_id) as pipeline:
            return await pipeline.in_turn(partial(listing.creators, pipeline.engine.snapshot, request))

    async def describe_bundle(
        self, request: pb.DescribeBundleRequest, context: Call
    ) -> pb.DescribeBundleResponse:
        """What is served."""
        pipeline = self.registry.find(request.bundle_id).pipeline
        engine, (snapshot, known) = pipeline.engine, pipeline.described
        if known is None or engine.snapshot is not snapshot:
            snapshot, known = engine.snapshot, translate.describe(engine)
            if self.config.thumbnails == "callers":
                known.thumbnail_count = len(engine.bundle.thumbnails or ())
            pipeline.described = snapshot, known
        return known

    async def list_receipt_keys(
        self, request: pb.ListReceiptKeysRequest, context: Call
    ) -> pb.ListReceiptKeysResponse:
        """The public keys of receipts."""
        return self.receipts.list_keys()

    async def answer(self, request: pb.AttributeRequest, deadline: float, arrived: float) -> bytes:
        """Answer one request with a serialised pb.Attribution; raises the errors of `attributary.errors`."""
        try:
            with self.registry.use(request.bundle_id) as pipeline:
                options = self._options(request.options) if request.HasField("options") else _NO_OPTIONS
                _check_input(request.query)
                query = translate.to_query(request.query, pipeline.engine.limits, "query")
                answer = await pipeline.submit(query, options, "query", deadline, arrived)
                return await self._reply(pipeline, query, answer, options, request.options.timings, arrived)
        except Exception as error:
            self.metrics.query(code_name(error))
            raise

    async def _answer_all(
        self, pipeline: Pipeline, request: pb.AttributeBatchRequest, deadline: float, arrived: float
    ) -> list[bytes]:
        """One serialised pb.AttributeResult a query."""
        # Of the envelope: what it may not ask is wrong with every query.
        options = self._options(request.options)
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
                timed = request.options.timings
                reply = await self._reply(pipeline, query, outcome, options, timed, arrived)
                results.append(embedded(1, reply))
            except Exception as error:
                error = presentable(error, "reply")
                self.metrics.query(code_name(error))
                results.append(pb.AttributeResult(error=to_result(error)).SerializeToString())
        return results

    def _options(self, message: pb.Options) -> Options:
        """The core's options; raises PermissionDeniedError for what a caller may not ask for, as what is hidden."""
        options = translate.to_options(message)
        if options.digests:
            self.receipts.check()
        # A filter by name would let the caller guess at names; what is signed is signed whole.
        named = options.filter.include_creators or options.filter.exclude_creators
        if (named and "creator" in self._hidden) or (options.digests and self._hidden):
            check_role(callers.current().owner, "read-items")
        return options

    async def _reply(
        self, pipeline: Pipeline, query: Query, answer: Answer, options: Options, timed: bool, arrived: float
    ) -> bytes:
        receipt = b""
        if options.digests:
            facts = QueryFacts(query.prompt, options.filter)
            receipt = await self.receipts.sign(pipeline, whole(answer), facts)
        started = perf_counter()
        reply = pipeline.replies.write(answer, receipt)
        if self.query_log is not None or self._hidden:
            reply = self._noted(query, reply)
        answer.timings.assemble += ms_since(started)
        self.metrics.query("OK", answer.timings)
        tracing.add_phases(answer.timings, arrived)
        if timed:
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
    done: Iterator[Any] = iter(await asyncio.gather(*futures, return_exceptions=True))
    return [task if isinstance(task, Exception) else next(done) for task in tasks]


def unary_methods(service: AttributionService) -> dict[str, tuple[UnaryMethod, Kind]]:
    """Return the methods with one message and one reply, and what each needs; every transport serves these."""
    query = Kind(permit=True)
    return {
        "Attribute": (service.attribute, query),
        "AttributeBatch": (service.attribute_batch, Kind(permit=True, bulk=True)),
        "Embed": (service.embed, query),
        "GetItem": (service.get_item, Kind(need="read-items", request=pb.GetItemRequest)),
        "GetThumbnail": (service.get_thumbnail, Kind(request=pb.GetThumbnailRequest)),
        # A page looks at every row: as much work as a query.
        "ListItems": (service.list_items, Kind(permit=True, need="read-items", request=pb.ListItemsRequest)),
        "ListCreators": (
            service.list_creators,
            Kind(permit=True, need="read-items", request=pb.ListCreatorsRequest),
        ),
        "DescribeBundle": (service.describe_bundle, Kind(need="any", request=pb.DescribeBundleRequest)),
        "ListReceiptKeys": (service.list_receipt_keys, Kind(need="any", request=pb.ListReceiptKeysRequest)),
    }


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
        from attributary.receipts.envelope import seal

        assert self._keys is not None
        assert answer.picture is not None
        if pipeline not in self._bundles:
            self._bundles[pipeline] = bundle_facts(pipeline.engine.bundle.manifest)
        keys, picture, bundle = self._keys.value, answer.picture, self._bundles[pipeline]
        return await asyncio.to_thread(
            lambda: seal(answer_statement(answer, picture, bundle, query), keys.signer)
        )

    def list_keys(self) -> pb.ListReceiptKeysResponse:
        """The public keys, the one that signs first."""
        keys = () if self._keys is None else self._keys.value.public
        listed = pb.ListReceiptKeysResponse()
        for place, key in enumerate(keys):
            listed.keys.add(key_id=key.key_id, pem=key.pem(), signs=place == 0)
        return listed
