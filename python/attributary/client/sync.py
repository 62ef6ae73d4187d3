"""The client for threads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import Self, Unpack

import grpc
from numpy.typing import ArrayLike

from attributary.attribution.types import Query
from attributary.errors import AttributaryError
from attributary.v1 import attribution_pb2 as pb
from attributary.v1 import attribution_pb2_grpc as rpc

from . import channel, messages
from .errors import from_rpc
from .types import Answer, Asked, BundleInfo, Item, Picture, query


class Client:
    """Asks a gateway. Safe to share between threads; close it, or use it as a context manager.

    Every call has a deadline (`timeout_s`) and is repeated with backoff while the server is UNAVAILABLE,
    unless `retry` is False. What may be asked for beside a query is listed in `Asked`. Failures are the errors of
    `attributary.errors`, and `ServerError` for what none stands for.
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
        self._address = address
        self._metadata = channel.metadata(token)
        given = channel.options(retry)
        self._channel = (
            grpc.insecure_channel(address, given)
            if tls is None
            else grpc.secure_channel(address, tls.credentials(), given)
        )
        self._stub = rpc.AttributionServiceStub(self._channel)

    def attribute(
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
        question = query(image, embedding=embedding, prompt=prompt, has_prompt=has_prompt)
        request = messages.attribute_request(question, asked)
        try:
            reply = self._stub.Attribute(request, timeout=self._within(timeout_s), metadata=self._metadata)
        except grpc.RpcError as error:
            raise from_rpc(error, self._address) from None
        return messages.from_attribution(reply.attribution)

    def attribute_batch(
        self,
        queries: Sequence[Query],
        *,
        timeout_s: float | None = None,
        **asked: Unpack[Asked],
    ) -> list[Answer | AttributaryError]:
        """Attribute several queries in one call; a wrong query is an error in its place, no more."""
        request = messages.batch_request(queries, asked)
        try:
            reply = self._stub.AttributeBatch(
                request, timeout=self._within(timeout_s), metadata=self._metadata
            )
        except grpc.RpcError as error:
            raise from_rpc(error, self._address) from None
        return [messages.from_outcome(result) for result in reply.results]

    def attribute_stream(
        self,
        queries: Iterable[Query],
        *,
        timeout_s: float = channel.DEFAULT_STREAM_TIMEOUT_S,
        **asked: Unpack[Asked],
    ) -> Iterator[Answer | AttributaryError]:
        """Attribute any number of queries over one stream; results come in the order of the queries.

        `queries` is read from another thread, no faster than the server takes them. Leaving the iterator
        early cancels what is still queued. `timeout_s` is for the whole stream.
        """
        failure: list[BaseException] = []

        def requests() -> Iterator[pb.AttributeStreamRequest]:
            try:
                for number, entry in enumerate(queries):
                    request = messages.attribute_request(entry, asked)
                    yield pb.AttributeStreamRequest(request_id=str(number), request=request)
            except Exception as error:
                failure.append(error)
                raise

        call = self._stub.AttributeStream(requests(), timeout=timeout_s, metadata=self._metadata)
        try:
            for response in call:
                yield messages.from_outcome(response)
        except grpc.RpcError as error:
            raise (failure[0] if failure else from_rpc(error, self._address)) from None
        finally:
            call.cancel()

    def get_item(self, item_id: int, *, bundle_id: str = "", timeout_s: float | None = None) -> Item:
        """Return one training item; raises NotFoundError."""
        request = pb.GetItemRequest(id=item_id, bundle_id=bundle_id)
        try:
            reply = self._stub.GetItem(request, timeout=self._within(timeout_s), metadata=self._metadata)
        except grpc.RpcError as error:
            raise from_rpc(error, self._address) from None
        return messages.from_item(reply.item)

    def describe(self, *, bundle_id: str = "", timeout_s: float | None = None) -> BundleInfo:
        """Return what the server serves: bundle, encoder, index, limits."""
        request = pb.DescribeBundleRequest(bundle_id=bundle_id)
        try:
            reply = self._stub.DescribeBundle(
                request, timeout=self._within(timeout_s), metadata=self._metadata
            )
        except grpc.RpcError as error:
            raise from_rpc(error, self._address) from None
        return messages.from_description(reply)

    def close(self) -> None:
        """Close the connection; running calls are cancelled."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _within(self, timeout_s: float | None) -> float:
        return self._timeout if timeout_s is None else timeout_s
