"""The client for asyncio: the calls of `calls.py`, each awaited."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from typing import Any, ClassVar, ParamSpec, Self, TypeVar, cast

import grpc
from grpc import aio

from .calls import AttributionCalls, Call, Stream
from .channel import Connection
from .errors import from_rpc

P = ParamSpec("P")
T = TypeVar("T")


class Awaiting:
    """A connection for asyncio. Create it inside the event loop that uses it; use it as an async context manager."""

    maker: ClassVar[Any] = aio
    _connection: Connection

    async def close(self) -> None:
        """Close the connection; running calls are cancelled."""
        await self._connection.channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _ask(self, build: Callable[P, Call[T]], *args: P.args, **given: P.kwargs) -> T:
        """Make a call, and return its reply."""
        call, connection = build(*args, **given), self._connection
        try:
            return call.read(await connection.start(call.method, call.request, call.timeout_s))
        except grpc.RpcError as error:
            raise from_rpc(error, connection.address) from None

    async def _converse(self, stream: Stream[T]) -> AsyncIterator[T]:
        """Yield the replies to a stream; what its entries raise is raised here."""
        failure: list[BaseException] = []

        async def requests() -> AsyncIterator[Any]:
            number = 0
            try:
                async for entry in _each(stream.entries):
                    yield stream.message(number, entry)
                    number += 1
            except Exception as error:
                failure.append(error)
                raise

        call = self._connection.start(stream.method, requests(), stream.timeout_s)
        errors: list[grpc.RpcError] = []
        call.add_done_callback(lambda ended: errors.append(_status(ended)))
        try:
            async for response in call:
                yield stream.read(response)
        except asyncio.CancelledError:
            # gRPC cancels a call whose requests fail; only then is the cancellation not the caller's.
            if failure:
                raise failure[0] from None
            raise
        except grpc.RpcError as error:
            # The server's word comes first; a write that meets the stream's end replaces it by gRPC's INTERNAL.
            error = errors[0] if errors else error
            raise (failure[0] if failure else from_rpc(error, self._connection.address)) from None
        finally:
            call.cancel()


class AsyncClient(AttributionCalls, Awaiting):
    """Asks a gateway, as `attributary.client.Client` does. Create it inside the event loop that uses it."""


async def _each(entries: Iterable[T] | AsyncIterable[T]) -> AsyncIterator[T]:
    if isinstance(entries, AsyncIterable):
        async for entry in entries:
            yield entry
    else:
        for entry in entries:
            yield entry


def _status(ended: aio.Call) -> grpc.RpcError:
    """The status of a call that has just ended."""
    code, details, trailing = ended.code(), ended.details(), ended.trailing_metadata()
    return aio.AioRpcError(_at_once(code), aio.Metadata(), _at_once(trailing), _at_once(details))


def _at_once(call: Awaitable[T]) -> T:
    """What has nothing to wait for, without giving the loop a turn, after which it may be another."""
    try:
        next(call.__await__())
    except StopIteration as result:
        return cast("T", result.value)
    raise RuntimeError("the status of an ended call is still to come")
