"""The client for threads: the calls of `calls.py`, each waited for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

import grpc

from attributary.errors import InvalidArgumentError
from attributary.v1 import attribution_pb2_grpc as rpc

from . import calls
from .calls import Call, Stream
from .channel import DEFAULT_TIMEOUT_S, Connection, Tls
from .errors import from_rpc

P = ParamSpec("P")
T = TypeVar("T")


def waited(build: Callable[P, Call[T]]) -> Callable[Concatenate[Blocking, P], T]:
    """Make a method of a call: it returns the reply."""

    @wraps(build)
    def method(self: Blocking, /, *args: P.args, **given: P.kwargs) -> T:
        return self._ask(build(*args, **given))

    return method


def streamed(build: Callable[P, Stream[T]]) -> Callable[Concatenate[Blocking, P], Iterator[T]]:
    """Make a method of a stream: it returns an iterator over the replies."""

    @wraps(build)
    def method(self: Blocking, /, *args: P.args, **given: P.kwargs) -> Iterator[T]:
        return self._converse(build(*args, **given))

    return method


class Blocking:
    """A connection for threads. Safe to share between them; close it, or use it as a context manager."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def close(self) -> None:
        """Close the connection; running calls are cancelled."""
        self._connection.channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(self, call: Call[T]) -> T:
        """Make a call, and return its reply."""
        connection = self._connection
        try:
            return call.read(connection.start(call.method, call.request, call.timeout_s))
        except grpc.RpcError as error:
            raise from_rpc(error, connection.address) from None

    def _converse(self, stream: Stream[T]) -> Iterator[T]:
        """Yield the replies to a stream; what its entries raise is raised here."""
        if not isinstance(stream.entries, Iterable):
            raise InvalidArgumentError("queries", "must be an ordinary iterable; AsyncClient takes others")
        entries, failure = stream.entries, list[BaseException]()

        def requests() -> Iterator[Any]:
            try:
                for number, entry in enumerate(entries):
                    yield stream.message(number, entry)
            except Exception as error:
                failure.append(error)
                raise

        call = self._connection.start(stream.method, requests(), stream.timeout_s)
        try:
            yield from map(stream.read, call)
        except grpc.RpcError as error:
            raise (failure[0] if failure else from_rpc(error, self._connection.address)) from None
        finally:
            call.cancel()


class Client(Blocking):
    """Asks a gateway. Safe to share between threads; close it, or use it as a context manager.

    Every call has a deadline (`timeout_s`) and is repeated with backoff while the server is UNAVAILABLE,
    unless `retry` is False. `CallOptions` lists what a call may set beside its query; `bundle_id` is an alias or a
    bundle's id. Failures are the errors of `attributary.errors`, and `ServerError` for what none stands for.
    """

    def __init__(
        self,
        address: str,
        *,
        tls: Tls | None = None,
        token: str | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        retry: bool = True,
    ) -> None:
        stub = rpc.AttributionServiceStub
        super().__init__(Connection(grpc, stub, address, tls, token, timeout_s, retry))

    attribute = waited(calls.attribute)
    attribute_batch = waited(calls.attribute_batch)
    attribute_stream = streamed(calls.attribute_stream)
    embed = waited(calls.embed)
    get_item = waited(calls.get_item)
    get_thumbnail = waited(calls.get_thumbnail)
    list_items = waited(calls.list_items)
    list_creators = waited(calls.list_creators)
    describe = waited(calls.describe)
    list_receipt_keys = waited(calls.list_receipt_keys)
