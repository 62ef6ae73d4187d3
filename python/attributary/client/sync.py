"""The client for threads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Unpack

from numpy.typing import ArrayLike

from attributary.attribution.types import Query
from attributary.errors import AttributaryError
from attributary.v1 import attribution_pb2_grpc as rpc

from . import calls, channel, messages
from .connection import Connection
from .types import Answer, Asked, BundleInfo, CreatorEntry, Embedded, Item, Page, Picture, ReceiptKey


class Client(Connection):
    """Asks a gateway. Safe to share between threads; close it, or use it as a context manager.

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
        super().__init__(address, rpc.AttributionServiceStub, tls, token, timeout_s, retry)

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
        return self._ask(calls.attribute(image, embedding, prompt, has_prompt, asked), timeout_s)

    def attribute_batch(
        self, queries: Sequence[Query], *, timeout_s: float | None = None, **asked: Unpack[Asked]
    ) -> list[Answer | AttributaryError]:
        """Attribute several queries in one call; a wrong query is an error in its place, no more."""
        return self._ask(calls.attribute_batch(queries, asked), timeout_s)

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
        requests = (calls.stream_request(number, entry, asked) for number, entry in enumerate(queries))
        yield from map(messages.from_outcome, self._converse("AttributeStream", requests, timeout_s))

    def embed(
        self, image: Picture, *, prompt: str = "", bundle_id: str = "", timeout_s: float | None = None
    ) -> Embedded:
        """Return the embedding of a picture and its prompt, to ask with later."""
        return self._ask(calls.embed(image, prompt, bundle_id), timeout_s)

    def get_item(self, item_id: int, *, bundle_id: str = "", timeout_s: float | None = None) -> Item:
        """Return one training item; raises NotFoundError."""
        return self._ask(calls.get_item(item_id, bundle_id), timeout_s)

    def list_items(
        self,
        *,
        creator: str = "",
        bundle_id: str = "",
        page_size: int = 1_000,
        page_token: str = "",
        timeout_s: float | None = None,
    ) -> Page[Item]:
        """Return a page of training items by ascending id, all or one creator's."""
        return self._ask(calls.list_items(creator, bundle_id, page_size, page_token), timeout_s)

    def list_creators(
        self,
        *,
        bundle_id: str = "",
        page_size: int = 1_000,
        page_token: str = "",
        timeout_s: float | None = None,
    ) -> Page[CreatorEntry]:
        """Return a page of creators by name."""
        return self._ask(calls.list_creators(bundle_id, page_size, page_token), timeout_s)

    def describe(self, *, bundle_id: str = "", timeout_s: float | None = None) -> BundleInfo:
        """Return what the server serves: bundle, encoder, index, calibration, limits."""
        return self._ask(calls.describe(bundle_id), timeout_s)

    def list_receipt_keys(self, *, timeout_s: float | None = None) -> tuple[ReceiptKey, ...]:
        """Return the public keys of the server's receipts, the one that signs first; none if it signs nothing."""
        return self._ask(calls.list_receipt_keys(), timeout_s)
