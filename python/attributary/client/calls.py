"""What the clients ask, once: a call as its method, its message, and how its reply is read.

Each function here is a method of `Client`, and awaited of `AsyncClient`; `admin.py` has those of the other service.
One function is the method of both clients: what it returns is what the client makes of a call.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable, Coroutine, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Generic,
    ParamSpec,
    Protocol,
    TypeVar,
    Unpack,
    cast,
    overload,
)

from google.protobuf.message import Message

from attributary.attribution.types import Query
from attributary.errors import AttributaryError
from attributary.v1 import attribution_pb2 as pb
from attributary.v1 import attribution_pb2_grpc as rpc

from . import messages
from .channel import DEFAULT_STREAM_TIMEOUT_S, DEFAULT_TIMEOUT_S, Connection, Tls
from .messages import read
from .types import (
    Answer,
    BundleInfo,
    CallOptions,
    CreatorEntry,
    Embedded,
    Item,
    Page,
    Picture,
    ReceiptKey,
    query,
)

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from .aio import Awaiting
    from .sync import Blocking

P = ParamSpec("P")
T = TypeVar("T")
Now = TypeVar("Now", covariant=True)
Awaited = TypeVar("Awaited", covariant=True)


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One unary call; without a timeout the client's own holds."""

    method: str
    request: Message
    read: Callable[[Any], T]
    timeout_s: float | None


@dataclass(frozen=True, slots=True)
class Stream(Generic[T]):
    """One stream: what is sent, the message of each entry by its number, and how each reply is read."""

    method: str
    entries: Iterable[Any] | AsyncIterable[Any]
    message: Callable[[int, Any], Message]
    read: Callable[[Any], T]
    timeout_s: float


class Method(Protocol[P, Now, Awaited]):
    """A method of both clients, as type checkers see it: what it returns of `Client`, and of `AsyncClient`."""

    @overload
    def __get__(self, client: Blocking, kind: Any) -> Callable[P, Now]: ...
    @overload
    def __get__(self, client: Awaiting, kind: Any) -> Callable[P, Awaited]: ...


def asked(build: Callable[P, Call[T]]) -> Method[P, T, Coroutine[Any, Any, T]]:
    """Make a method of a call: it returns the reply, or awaits it."""

    @wraps(build)
    def method(self: Any, /, *args: P.args, **given: P.kwargs) -> Any:
        return self._ask(build, *args, **given)

    return cast("Method[P, T, Coroutine[Any, Any, T]]", method)


def streamed(build: Callable[P, Stream[T]]) -> Method[P, Iterator[T], AsyncIterator[T]]:
    """Make a method of a stream: it returns an iterator over the replies, asynchronous or not."""

    @wraps(build)
    def method(self: Any, /, *args: P.args, **given: P.kwargs) -> Any:
        return self._converse(build(*args, **given))

    return cast("Method[P, Iterator[T], AsyncIterator[T]]", method)


def attribute(
    image: Picture | None = None,
    *,
    embedding: ArrayLike | Embedded | None = None,
    prompt: str | None = "",
    has_prompt: bool = False,
    timeout_s: float | None = None,
    **options: Unpack[CallOptions],
) -> Call[Answer]:
    """Attribute a picture (encoded bytes, a path, or uint8 RGB [H, W, 3]) or an embedding (float [D], or `embed`'s)."""
    question = query(image, embedding=embedding, prompt=prompt, has_prompt=has_prompt)
    request = messages.attribute_request(question, options)
    return Call("Attribute", request, lambda reply: messages.from_attribution(reply.attribution), timeout_s)


def attribute_batch(
    queries: Sequence[Query], *, timeout_s: float | None = None, **options: Unpack[CallOptions]
) -> Call[list[Answer | AttributaryError]]:
    """Attribute several queries in one call; a wrong query is an error in its place, no more."""
    request = messages.batch_request(queries, options)
    return Call(
        "AttributeBatch", request, lambda reply: [*map(messages.from_outcome, reply.results)], timeout_s
    )


def attribute_stream(
    queries: Iterable[Query] | AsyncIterable[Query],
    *,
    timeout_s: float = DEFAULT_STREAM_TIMEOUT_S,
    **options: Unpack[CallOptions],
) -> Stream[Answer | AttributaryError]:
    """Attribute any number of queries over one stream; results come in the order of the queries.

    `queries` is read no faster than the server takes them: by `Client` from another thread; `AsyncClient` takes
    asynchronous ones, too. Leaving the iterator early cancels what is still queued. `timeout_s` is for the whole
    stream.
    """

    def message(number: int, entry: Query) -> Message:
        return messages.made(
            pb.AttributeStreamRequest,
            request_id=str(number),
            request=messages.attribute_request(entry, options),
        )

    return Stream("AttributeStream", queries, message, messages.from_outcome, timeout_s)


def embed(
    image: Picture, *, prompt: str | None = "", bundle_id: str = "", timeout_s: float | None = None
) -> Call[Embedded]:
    """Return the embedding of a picture and its prompt, to ask with later."""
    message = messages.to_query(query(image, prompt=prompt))
    request = messages.made(pb.EmbedRequest, query=message, bundle_id=bundle_id)
    return Call("Embed", request, messages.from_embedding, timeout_s)


def get_item(item_id: int, *, bundle_id: str = "", timeout_s: float | None = None) -> Call[Item]:
    """Return one training item; raises NotFoundError."""
    request = messages.made(pb.GetItemRequest, id=item_id, bundle_id=bundle_id)
    return Call("GetItem", request, lambda reply: read(Item, reply.item), timeout_s)


def get_thumbnail(item_id: int, *, bundle_id: str = "", timeout_s: float | None = None) -> Call[bytes]:
    """Return a small picture of a training item, WebP; raises NotFoundError if the server shows none."""
    request = messages.made(pb.GetThumbnailRequest, id=item_id, bundle_id=bundle_id)
    return Call("GetThumbnail", request, lambda reply: bytes(reply.image), timeout_s)


def list_items(
    *,
    creator: str = "",
    search: str = "",
    bundle_id: str = "",
    page_size: int = 1_000,
    page_token: str = "",
    timeout_s: float | None = None,
) -> Call[Page[Item]]:
    """Return a page of training items by ascending id: all, one creator's, those that hold a text."""
    request = messages.made(
        pb.ListItemsRequest,
        bundle_id=bundle_id,
        page_size=page_size,
        page_token=page_token,
        creator=creator,
        search=search,
    )
    return Call(
        "ListItems",
        request,
        lambda reply: Page(tuple(read(Item, item) for item in reply.items), reply.next_page_token),
        timeout_s,
    )


def list_creators(
    *,
    search: str = "",
    bundle_id: str = "",
    page_size: int = 1_000,
    page_token: str = "",
    timeout_s: float | None = None,
) -> Call[Page[CreatorEntry]]:
    """Return a page of creators by name: all, or those whose name holds a text."""
    request = messages.made(
        pb.ListCreatorsRequest, bundle_id=bundle_id, page_size=page_size, page_token=page_token, search=search
    )
    return Call(
        "ListCreators",
        request,
        lambda reply: Page(tuple(read(CreatorEntry, one) for one in reply.creators), reply.next_page_token),
        timeout_s,
    )


def describe(*, bundle_id: str = "", timeout_s: float | None = None) -> Call[BundleInfo]:
    """Return what the server serves: bundle, encoder, index, calibration, limits."""
    request = messages.made(pb.DescribeBundleRequest, bundle_id=bundle_id)
    return Call("DescribeBundle", request, messages.from_description, timeout_s)


def list_receipt_keys(*, timeout_s: float | None = None) -> Call[tuple[ReceiptKey, ...]]:
    """Return the public keys of the server's receipts, the one that signs first; none if it signs nothing."""
    request = pb.ListReceiptKeysRequest()
    return Call(
        "ListReceiptKeys",
        request,
        lambda reply: tuple(read(ReceiptKey, key) for key in reply.keys),
        timeout_s,
    )


class AttributionCalls:
    """What both clients of the attribution service have."""

    maker: ClassVar[Any]  # of channels: `grpc` or `grpc.aio`

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
        self._connection = Connection(self.maker, stub, address, tls, token, timeout_s, retry)

    attribute = asked(attribute)
    attribute_batch = asked(attribute_batch)
    attribute_stream = streamed(attribute_stream)
    embed = asked(embed)
    get_item = asked(get_item)
    get_thumbnail = asked(get_thumbnail)
    list_items = asked(list_items)
    list_creators = asked(list_creators)
    describe = asked(describe)
    list_receipt_keys = asked(list_receipt_keys)
