"""What the clients ask, once: each unary call as its method, its message, and how its reply is read.

`Client`, `AsyncClient` and `AdminClient` differ in how a call is made and in nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from google.protobuf.message import Message
from numpy.typing import ArrayLike

from attributary.attribution.types import Query
from attributary.errors import AttributaryError
from attributary.v1 import attribution_pb2 as pb

from . import messages
from .types import Answer, Asked, BundleInfo, CreatorEntry, Embedded, Item, Page, Picture, ReceiptKey, query

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One unary call."""

    method: str
    request: Message
    read: Callable[[Any], T]


def attribute(
    image: Picture | None, embedding: ArrayLike | None, prompt: str, has_prompt: bool, asked: Asked
) -> Call[Answer]:
    """Attribute one query."""
    question = query(image, embedding=embedding, prompt=prompt, has_prompt=has_prompt)
    request = messages.attribute_request(question, asked)
    return Call("Attribute", request, lambda reply: messages.from_attribution(reply.attribution))


def attribute_batch(queries: Sequence[Query], asked: Asked) -> Call[list[Answer | AttributaryError]]:
    """Attribute several queries."""
    return Call(
        "AttributeBatch",
        messages.batch_request(queries, asked),
        lambda reply: [messages.from_outcome(result) for result in reply.results],
    )


def embed(image: Picture, prompt: str, bundle_id: str) -> Call[Embedded]:
    """Make an embedding."""
    message = messages.to_query(query(image, prompt=prompt))
    return Call("Embed", pb.EmbedRequest(query=message, bundle_id=bundle_id), messages.from_embedding)


def get_item(item_id: int, bundle_id: str) -> Call[Item]:
    """Look one item up."""
    request = pb.GetItemRequest(id=item_id, bundle_id=bundle_id)
    return Call("GetItem", request, lambda reply: messages.from_item(reply.item))


def list_items(creator: str, bundle_id: str, page_size: int, page_token: str) -> Call[Page[Item]]:
    """Read a page of items."""
    return Call(
        "ListItems",
        pb.ListItemsRequest(bundle_id=bundle_id, page_size=page_size, page_token=page_token, creator=creator),
        lambda reply: Page(tuple(map(messages.from_item, reply.items)), reply.next_page_token),
    )


def list_creators(bundle_id: str, page_size: int, page_token: str) -> Call[Page[CreatorEntry]]:
    """Read a page of creators."""
    return Call(
        "ListCreators",
        pb.ListCreatorsRequest(bundle_id=bundle_id, page_size=page_size, page_token=page_token),
        lambda reply: Page(
            tuple(
                CreatorEntry(one.name, one.creator_url, one.item_count, tuple(one.creator_ids))
                for one in reply.creators
            ),
            reply.next_page_token,
        ),
    )


def describe(bundle_id: str) -> Call[BundleInfo]:
    """Ask what is served."""
    request = pb.DescribeBundleRequest(bundle_id=bundle_id)
    return Call("DescribeBundle", request, messages.from_description)


def list_receipt_keys() -> Call[tuple[ReceiptKey, ...]]:
    """Ask for the public keys of receipts."""
    return Call(
        "ListReceiptKeys",
        pb.ListReceiptKeysRequest(),
        lambda reply: tuple(ReceiptKey(key.key_id, key.pem, key.signs) for key in reply.keys),
    )


def stream_request(number: int, question: Query, asked: Asked) -> pb.AttributeStreamRequest:
    """Return the message of one query of a stream."""
    return pb.AttributeStreamRequest(
        request_id=str(number), request=messages.attribute_request(question, asked)
    )
