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
from .stream import check_request_id


class AdditionHandler:
    """AddItems, the streaming method of attributary.v1.AdminService, and AddItem."""

    def __init__(self, changes: Changes, admission: Admission, config: GatewayConfig) -> None:
        self._changes, self._admission, self._config = changes, admission, config

    async def converse(self, call: Call) -> None:
        """Serve one stream until the client has said all, leaves, or sends what cannot be read."""
        # Where nothing can be changed nothing needs to be read.
        self._changes.check()
        most = self._config.max_encode_batch
        # While one batch is embedded the next is read, and no more.
        room = asyncio.Semaphore(2 * most)
        arrived: asyncio.Queue[bytes | None] = asyncio.Queue()
        reader = asyncio.create_task(self._read(call, arrived, room))
        call.alive()
        try:
            ended = False
            while not ended:
                batch = [await arrived.get()]
                while len(batch) < most and not arrived.empty():
                    batch.append(arrived.get_nowait())
                ended = None in batch
                await self._serve([data for data in batch if data is not None], call)
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

    async def add_item(self, request: pb.AddItemRequest, call: Call) -> pb.AddItemResponse:
        """One item in."""
        self._changes.check()
        item, who = to_item(request.item), call.caller.name
        terms = self._terms(call, request.bring_back)
        result = await self._changes.add(request.bundle, [item], who, request.why, terms)
        if (outcome := result.outcomes[0]) is not None:
            raise outcome
        added = pb.Added(id=item.id, revision=result.revisions[0], held=result.held[0])
        return pb.AddItemResponse(added=added)

    def _terms(self, call: Call, bring_back: bool) -> Terms:
        """What a caller's additions are held to: an admin is the operator. Raises PermissionDeniedError."""
        owner, config = call.caller.owner, self._config
        if owner.may("admin"):
            return replace(OPERATOR, bring_back=bring_back)
        if bring_back:
            raise PermissionDeniedError("admin")
        return Terms(True, config.contributed_caption_weight, owner.items or config.contributed_items_a_day)

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
        replies, items, sound = list[pb.AddItemsResponse](), list[NewItem](), list[pb.AddItemsResponse]()
        for request in requests:
            reply = pb.AddItemsResponse(request_id=request.request_id)
            replies.append(reply)
            try:
                check_request_id(reply)
                items.append(to_item(request.item))
                sound.append(reply)
            except InvalidArgumentError as error:
                reply.error.CopyFrom(to_result(error))
        if not items:
            return replies
        try:
            who, terms = context.caller.name, self._terms(context, bring_back)
            result = await self._changes.add(bundle, items, who, why, terms)
            outcomes: list[Exception | None] = [*result.outcomes]
        except Exception as error:
            shown = error if isinstance(error, AttributaryError) else presentable(error, "AddItems")
            outcomes = [shown] * len(items)
        for place, (reply, item, outcome) in enumerate(zip(sound, items, outcomes, strict=True)):
            if outcome is None:
                added = pb.Added(id=item.id, revision=result.revisions[place], held=result.held[place])
                reply.added.CopyFrom(added)
            else:
                reply.error.CopyFrom(to_result(outcome))
        return replies


def to_item(message: pb.NewItem) -> NewItem:
    """Return the item of a message; raises InvalidArgumentError for one without an id."""
    if not message.HasField("id"):
        raise InvalidArgumentError("item.id", "must be given")
    words = {name: getattr(message, name) for name in ("caption", "creator", "creator_url", "licence", "uri")}
    near_dup_of = message.near_dup_of if message.HasField("near_dup_of") else None
    return NewItem(id=message.id, picture=message.image, near_dup_of=near_dup_of, **words)
