"""A blocking connection to one service: how `Client` and `AdminClient` make a call."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc

from . import channel
from .calls import Call
from .errors import from_rpc

T = TypeVar("T")


class Connection:
    """One channel. Safe to share between threads; close it, or use it as a context manager."""

    def __init__(
        self,
        address: str,
        stub: Callable[[grpc.Channel], Any],
        tls: channel.Tls | None,
        token: str | None,
        timeout_s: float,
        retry: bool,
    ) -> None:
        self._timeout = timeout_s
        self._metadata = channel.metadata(token)
        self._address = address
        given = channel.options(address, retry)
        self._channel = (
            grpc.insecure_channel(address, given)
            if tls is None
            else grpc.secure_channel(address, tls.credentials(), given)
        )
        self._stub = stub(self._channel)

    def close(self) -> None:
        """Close the connection; running calls are cancelled."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, call: Call[T], timeout_s: float | None = None) -> T:
        timeout = self._timeout if timeout_s is None else timeout_s
        try:
            reply = getattr(self._stub, call.method)(
                call.request, timeout=timeout, metadata=channel.traced(self._metadata)
            )
        except grpc.RpcError as error:
            raise from_rpc(error, self._address) from None
        return call.read(reply)

    def _converse(self, method: str, requests: Iterator[Any], timeout_s: float) -> Iterator[Any]:
        """Yield the replies to a stream of requests; what `requests` raises is raised here."""
        failure: list[BaseException] = []

        def noted() -> Iterator[Any]:
            try:
                yield from requests
            except Exception as error:
                failure.append(error)
                raise

        call = getattr(self._stub, method)(
            noted(), timeout=timeout_s, metadata=channel.traced(self._metadata)
        )
        try:
            yield from call
        except grpc.RpcError as error:
            raise (failure[0] if failure else from_rpc(error, self._address)) from None
        finally:
            call.cancel()
