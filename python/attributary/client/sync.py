"""The client for threads: the calls of `calls.py`, each waited for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar, ParamSpec, Self, TypeVar

import grpc

from attributary.errors import InvalidArgumentError

from .calls import AttributionCalls, Call, Stream
from .channel import Connection
from .errors import from_rpc

P = ParamSpec("P")
T = TypeVar("T")


class Blocking:
    """A connection for threads. Safe to share between them; close it, or use it as a context manager."""

    maker: ClassVar[Any] = grpc
    _connection: Connection

    def close(self) -> None:
        """Close the connection; running calls are cancelled."""
        self._connection.channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(self, build: Callable[P, Call[T]], *args: P.args, **given: P.kwargs) -> T:
        """Make a call, and return its reply."""
        call, connection = build(*args, **given), self._connection
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


class Client(AttributionCalls, Blocking):
    """Asks a gateway. Safe to share between threads; close it, or use it as a context manager.

    Every call has a deadline (`timeout_s`) and is repeated with backoff while the server is UNAVAILABLE,
    unless `retry` is False. `CallOptions` lists what a call may set beside its query; `bundle_id` is an alias or a
    bundle's id. Failures are the errors of `attributary.errors`, and `ServerError` for what none stands for.
    """
