"""The typed client: `Client` for threads, `AsyncClient` for asyncio. No protobuf in its face."""

from attributary.attribution.types import AttributedItem, CreatorShare, Filter, Query

from .aio import AsyncClient
from .channel import Tls
from .errors import ServerError
from .sync import Client
from .types import (
    Answer,
    BundleInfo,
    CalibrationInfo,
    CallOptions,
    CreatorEntry,
    Embedded,
    Item,
    Page,
    ReceiptKey,
    ReplyTimings,
    ShareParameters,
    query,
)

__all__ = [
    "Answer",
    "AsyncClient",
    "AttributedItem",
    "BundleInfo",
    "CalibrationInfo",
    "CallOptions",
    "Client",
    "CreatorEntry",
    "CreatorShare",
    "Embedded",
    "Filter",
    "Item",
    "Page",
    "Query",
    "ReceiptKey",
    "ReplyTimings",
    "ServerError",
    "ShareParameters",
    "Tls",
    "query",
]
