"""AddItems: a stream of items in, one result for each; what waits together becomes durable together."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from itertools import groupby

from attributary.delta.entry import OPERATOR, Terms
from attributary.delta.items import NewItem
from attributary.errors import AttributaryError, InvalidArgumentError, PermissionDeniedError
from attributary.v1 import admin_pb2 as pb

from . import translate
from .admin import Changes
from .admission import Admission
from .calls import Call
from .config import GatewayConfig
from .errors import presentable, to_result
from .stream import MAX_REQUEST_ID_BYTES

_METHOD = "AddItems"


class AdditionHandler:
    """AddItems, the streaming method of attributary.v1.AdminService, and AddItem."""

    def __init__(self, changes: Changes, admission: Admission, config: GatewayConfig) -> None:
        self._changes = changes
        self._admission = admission
        self._config = config

    async def converse(self, call: Call) -> None:
        """Serve one stream until the client has said all, leaves, or sends what cannot be read."""
        # Where nothing can be changed nothing needs to be read.
        self._changes.check()
        await self._run(call)

    async def add_item(self, data: bytes, call: Call) -> bytes:
        """One item in."""
        self._changes.check()
        request = translate.parse(pb.AddItemRequest, data)
        if fault := no_id(request.item):
            raise fault
        item, who = to_item(request.item), call.caller.name
        terms = self._terms(call, request.bring_back)
        result = await self._changes.add(request.bundle, [item], who, request.why, terms)
        if (outcome := result.outcomes[0]) is not None:
            raise outcome
        added = pb.Added(id=item.id, revision=result.revisions[0], held=result.held[0])
        return pb.AddItemResponse(added=added).SerializeToString()

    def _terms(self, call: Call, bring_back: bool) -> Terms:
        """What a caller's additions are held to: an admin is the operator. Raises PermissionDeniedError."""
        owner, config = call.caller.owner, self._config
        if owner.may("admin"):
            return replace(OPERATOR, bring_back=bring_back)
        if bring_back:
            raise PermissionDeniedError("admin")
        return Terms(True, config.contributed_caption_weight, owner.items or config.contributed_items_a_day)

    async def _run(self, context: Call) -> None:
        most = self._config.max_encode_batch
        # While one batch is embedded the next is read, and no more.
        room = asyncio.Semaphore(2 * most)
        arrived: asyncio.Queue[bytes | None] = asyncio.Queue()
        reader = asyncio.create_task(self._read(context, arrived, room))
        context.alive()
        try:
            ended = False
            while not ended:
                batch = [await arrived.get()]
                while len(batch) < most and not arrived.empty():
                    batch.append(arrived.get_nowait())
                ended = None in batch
                await self._serve([data for data in batch if data is not None], context)
                for _ in batch:
                    room.release()
            # Raises what stopped the reader, if anything did.
            await reader
        finally:
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)
            while not arrived.empty():
                if (data := arrived.get_nowait()) is not None:
                    self._admission.release(1, len(data))

    async def _read(
        self, context: Call, arrived: asyncio.Queue[bytes | None], room: asyncio.Semaphore
    ) -> None:
        try:
            while True:
                await room.acquire()
                data = await context.read()
                context.alive()
                if data is None:
                    return
                await self._admission.wait(len(data))
                arrived.put_nowait(data)
        finally:
            arrived.put_nowait(None)

    async def _serve(self, batch: list[bytes], context: Call) -> None:
        try:
            requests: list[pb.AddItemsRequest] = []
            unreadable: Exception | None = None
            for data in batch:
                try:
                    requests.append(translate.parse(pb.AddItemsRequest, data))
                except InvalidArgumentError as error:
                    # It has no request_id to answer to: that ends the stream, after what came before it.
                    unreadable = error
                    break
            for _, together in groupby(requests, key=lambda one: (one.bundle, one.why, one.bring_back)):
                for response in await self._add(list(together), context):
                    await context.write(response.SerializeToString())
                    context.alive()
            if unreadable is not None:
                raise unreadable
        finally:
            for data in batch:
                self._admission.release(1, len(data))

    async def _add(self, requests: list[pb.AddItemsRequest], context: Call) -> list[pb.AddItemsResponse]:
        """Add what has one bundle, one reason, one `bring_back`."""
        bundle, why, bring_back = requests[0].bundle, requests[0].why, requests[0].bring_back
        outcomes: list[Exception | None] = [_fault(request) for request in requests]
        places = [place for place, fault in enumerate(outcomes) if fault is None]
        revisions = [0] * len(requests)
        held = [""] * len(requests)
        try:
            items = [to_item(requests[place].item) for place in places]
            if items:
                who, terms = context.caller.name, self._terms(context, bring_back)
                result = await self._changes.add(bundle, items, who, why, terms)
                done = zip(places, result.outcomes, result.revisions, result.held, strict=True)
                for place, outcome, revision, reason in done:
                    outcomes[place], revisions[place], held[place] = outcome, revision, reason
        except AttributaryError as error:
            for place in places:
                outcomes[place] = error
        except Exception as error:
            hidden = presentable(error, _METHOD)
            for place in places:
                outcomes[place] = hidden
        return [
            _response(request, outcome, revision, reason)
            for request, outcome, revision, reason in zip(requests, outcomes, revisions, held, strict=True)
        ]


def _fault(request: pb.AddItemsRequest) -> Exception | None:
    if len(request.request_id.encode()) > MAX_REQUEST_ID_BYTES:
        return InvalidArgumentError("request_id", f"must have at most {MAX_REQUEST_ID_BYTES} bytes")
    return no_id(request.item)


def no_id(item: pb.NewItem) -> InvalidArgumentError | None:
    """Say that an item has no id, None if it has one."""
    return None if item.HasField("id") else InvalidArgumentError("item.id", "must be given")


def to_item(message: pb.NewItem) -> NewItem:
    """Return the item of a message that has an id."""
    words = {name: getattr(message, name) for name in ("caption", "creator", "creator_url", "licence", "uri")}
    near_dup_of = message.near_dup_of if message.HasField("near_dup_of") else None
    return NewItem(id=message.id, picture=message.image, near_dup_of=near_dup_of, **words)


def _response(
    request: pb.AddItemsRequest, outcome: Exception | None, revision: int, held: str
) -> pb.AddItemsResponse:
    known = request.request_id if len(request.request_id.encode()) <= MAX_REQUEST_ID_BYTES else ""
    if outcome is None:
        added = pb.Added(id=request.item.id, revision=revision, held=held)
        return pb.AddItemsResponse(request_id=known, added=added)
    return pb.AddItemsResponse(request_id=known, error=to_result(outcome))
