"""The client for asyncio: the same calls as `attributary.client.Client`, awaited."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Iterable, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack, cast

import grpc
from grpc import aio
from numpy.typing import ArrayLike

from attributary.attribution.types import Query
from attributary.errors import AttributaryError
from attributary.v1 import attribution_pb2 as pb
from attributary.v1 import attribution_pb2_grpc as rpc

from . import calls, channel, messages
from .calls import Call
from .errors import from_rpc
from .types import Answer, Asked, BundleInfo, CreatorEntry, Embedded, Item, Page, Picture, ReceiptKey

T = TypeVar("T")


class AsyncClient:
    """Asks a gateway. Create it inside the event loop that uses it; use it as an async context manager.

    Every call has a deadline (`timeout_s`) and is repeated with backoff while the server is UNAVAILABLE,
    unless `retry` is False. What may be asked for beside a query is listed in `Asked`; `bundle_id` is an alias or a
    bundle's id. Failures are the errors of `attributary.errors`, and `ServerError` for what none stands for.
    """

    def __init__(
        self,
        address: str,
        *,
        tls: channel.Tls | None = None,
        token: str | None = None,
        timeout_s: float = channel.DEFAULT_TIMEOUT_S,
        retry: bool = True,
    ) -> None:
        self._timeout = timeout_s
        self._metadata = channel.metadata(token)
        self._address = address
        given = channel.options(address, retry)
        self._channel = (
            aio.insecure_channel(address, given)
            if tls is None
            else aio.secure_channel(address, tls.credentials(), given)
        )
        self._stub: Any = rpc.AttributionServiceStub(self._channel)

    async def attribute(
        self,
        image: Picture | None = None,
        *,
        embedding: ArrayLike | None = None,
        prompt: str = "",
        has_prompt: bool = False,
        timeout_s: float | None = None,
        **asked: Unpack[Asked],
    ) -> Answer:
        """Attribute a picture (encoded bytes, a path, or uint8 RGB [H, W, 3]) or an embedding (float [D])."""
        return await self._ask(calls.attribute(image, embedding, prompt, has_prompt, asked), timeout_s)

    async def attribute_batch(
        self, queries: Sequence[Query], *, timeout_s: float | None = None, **asked: Unpack[Asked]
    ) -> list[Answer | AttributaryError]:
        """Attribute several queries in one call; a wrong query is an error in its place, no more."""
        return await self._ask(calls.attribute_batch(queries, asked), timeout_s)

    async def attribute_stream(
        self,
        queries: Iterable[Query] | AsyncIterable[Query],
        *,
        timeout_s: float = channel.DEFAULT_STREAM_TIMEOUT_S,
        **asked: Unpack[Asked],
    ) -> AsyncIterator[Answer | AttributaryError]:
        """Attribute any number of queries over one stream; results come in the order of the queries.

        `queries` is read no faster than the server takes them. Leaving the iterator early cancels what is
        still queued. `timeout_s` is for the whole stream.
        """
        failure: list[BaseException] = []

        async def requests() -> AsyncIterator[pb.AttributeStreamRequest]:
            number = 0
            try:
                async for entry in _each(queries):
                    yield calls.stream_request(number, entry, asked)
                    number += 1
            except Exception as error:
                failure.append(error)
                raise

        call = self._stub.AttributeStream(
            requests(), timeout=timeout_s, metadata=channel.traced(self._metadata)
        )
        told: list[grpc.RpcError] = []
        call.add_done_callback(lambda ended: told.append(_status(ended)))
        try:
            async for response in call:
                yield messages.from_outcome(response)
        except asyncio.CancelledError:
            # gRPC cancels a call whose requests fail; only then is the cancellation not the caller's.
            if failure:
                raise failure[0] from None
            raise
        except grpc.RpcError as error:
            # The server's word comes first; a write that meets the stream's end replaces it by gRPC's INTERNAL.
            error = told[0] if told else error
            raise (failure[0] if failure else from_rpc(error, self._address)) from None
        finally:
            call.cancel()

    async def embed(
        self, image: Picture, *, prompt: str = "", bundle_id: str = "", timeout_s: float | None = None
    ) -> Embedded:
        """Return the embedding of a picture and its prompt, to ask with later."""
        return await self._ask(calls.embed(image, prompt, bundle_id), timeout_s)

    async def get_item(self, item_id: int, *, bundle_id: str = "", timeout_s: float | None = None) -> Item:
        """Return one training item; raises NotFoundError."""
        return await self._ask(calls.get_item(item_id, bundle_id), timeout_s)

    async def list_items(
        self,
        *,
        creator: str = "",
        bundle_id: str = "",
        page_size: int = 1_000,
        page_token: str = "",
        timeout_s: float | None = None,
    ) -> Page[Item]:
        """Return a page of training items by ascending id, all or one creator's."""
        return await self._ask(calls.list_items(creator, bundle_id, page_size, page_token), timeout_s)

    async def list_creators(
        self,
        *,
        bundle_id: str = "",
        page_size: int = 1_000,
        page_token: str = "",
        timeout_s: float | None = None,
    ) -> Page[CreatorEntry]:
        """Return a page of creators by name."""
        return await self._ask(calls.list_creators(bundle_id, page_size, page_token), timeout_s)

    async def describe(self, *, bundle_id: str = "", timeout_s: float | None = None) -> BundleInfo:
        """Return what the server serves: bundle, encoder, index, calibration, limits."""
        return await self._ask(calls.describe(bundle_id), timeout_s)

    async def list_receipt_keys(self, *, timeout_s: float | None = None) -> tuple[ReceiptKey, ...]:
        """Return the public keys of the server's receipts, the one that signs first; none if it signs nothing."""
        return await self._ask(calls.list_receipt_keys(), timeout_s)

    async def close(self) -> None:
        """Close the connection; running calls are cancelled."""
        await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def _ask(self, call: Call[T], timeout_s: float | None) -> T:
        timeout = self._timeout if timeout_s is None else timeout_s
        try:
            reply = await getattr(self._stub, call.method)(
                call.request, timeout=timeout, metadata=channel.traced(self._metadata)
            )
        except grpc.RpcError as error:
            raise from_rpc(error, self._address) from None
        return call.read(reply)


async def _each(queries: Iterable[Query] | AsyncIterable[Query]) -> AsyncIterator[Query]:
    if isinstance(queries, AsyncIterable):
        async for entry in queries:
            yield entry
    else:
        for entry in queries:
            yield entry


def _status(ended: aio.Call) -> grpc.RpcError:
    """The status of a call that has just ended."""
    code, details, trailing = ended.code(), ended.details(), ended.trailing_metadata()
    return aio.AioRpcError(_at_once(code), aio.Metadata(), _at_once(trailing), _at_once(details))


def _at_once(told: Awaitable[T]) -> T:
    """What has nothing to wait for, without giving the loop a turn, after which it may be another."""
    try:
        next(told.__await__())
    except StopIteration as result:
        return cast("T", result.value)
    raise RuntimeError("the status of an ended call is still to come")
