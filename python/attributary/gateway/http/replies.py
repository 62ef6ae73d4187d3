"""Replies as JSON, as a table (Arrow or Parquet) or as a page (PDF), and errors as the JSON of a google.rpc.Status."""

from __future__ import annotations

import io
import math
from collections.abc import Awaitable, Callable
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2
from numpy.typing import NDArray
from starlette.responses import Response

from attributary.errors import AttributaryError, NotFoundError
from attributary.pictures import read
from attributary.v1 import attribution_pb2 as pb

from ..errors import StatusError
from ..service import AttributionService
from .routes import Route

_STATUS: Final = {
    code_pb2.INVALID_ARGUMENT: 400,
    code_pb2.FAILED_PRECONDITION: 400,
    code_pb2.UNAUTHENTICATED: 401,
    code_pb2.PERMISSION_DENIED: 403,
    code_pb2.NOT_FOUND: 404,
    code_pb2.ALREADY_EXISTS: 409,
    code_pb2.RESOURCE_EXHAUSTED: 429,
    code_pb2.CANCELLED: 499,
    code_pb2.UNIMPLEMENTED: 501,
    code_pb2.UNAVAILABLE: 503,
    code_pb2.DEADLINE_EXCEEDED: 504,
}
ARROW: Final = "application/vnd.apache.arrow.stream"
PARQUET: Final = "application/vnd.apache.parquet"
PDF: Final = "application/pdf"
_JSON: Final = "application/json"
_PICTURE: Final = "image/webp"
# Writing less than this takes about a millisecond.
_AT_ONCE_BYTES: Final = 16 << 10
# Pixels of a side: 38 mm in print.
_SIDE: Final = 320
# What a table has of the contract's messages, and of which types its columns are.
_OF_ITEM: Final = ("rank", "id", "similarity", "share", "caption", "creator", "licence", "uri")
_OF_ANSWER: Final = ("diffuse_share", "withheld_share", "out_of_distribution", "bundle_id", "revision")
_OF_ERROR: Final = ("code", "field", "message")
_LISTED: Final = ("id", "caption", "creator", "creator_url", "licence", "uri", "near_dup_group")
_TYPES: Final[dict[int, pa.DataType]] = {
    FieldDescriptor.TYPE_INT32: pa.int32(),
    FieldDescriptor.TYPE_INT64: pa.int64(),
    FieldDescriptor.TYPE_UINT32: pa.uint32(),
    FieldDescriptor.TYPE_UINT64: pa.uint64(),
    FieldDescriptor.TYPE_FLOAT: pa.float32(),
    FieldDescriptor.TYPE_BOOL: pa.bool_(),
    FieldDescriptor.TYPE_STRING: pa.string(),
}


def _columns(kind: type[Message], names: tuple[str, ...], prefix: str = "") -> list[pa.Field[Any]]:
    fields = kind.DESCRIPTOR.fields_by_name
    return [pa.field(prefix + name, _TYPES[fields[name].type]) for name in names]


# `query` is its place in the request; `rank` 0 in the only row of a query without items, `error_code` of an answer.
ANSWERS: Final = pa.schema(
    [
        pa.field("query", pa.uint32()),
        *_columns(pb.AttributedItem, _OF_ITEM),
        *_columns(pb.Attribution, _OF_ANSWER),
        *_columns(pb.Error, _OF_ERROR, "error_"),
    ]
)
ITEMS: Final = pa.schema(_columns(pb.Item, _LISTED))


async def reply(
    route: Route, data: bytes, accept: str, in_turn: Callable[[Callable[[], Response]], Awaitable[Response]]
) -> Response:
    """Return a message of the contract as the caller wants to read it: JSON unless a table is asked for."""
    if route.picture:
        return Response(pb.GetThumbnailResponse.FromString(data).image, media_type=_PICTURE)
    kind = wanted(accept, ARROW, PARQUET) if route.table else ""

    def written() -> Response:
        message = route.response.FromString(data)
        return Response(write(table_of(message), kind) if kind else _json(message), media_type=kind or _JSON)

    return written() if len(data) <= _AT_ONCE_BYTES and not kind else await in_turn(written)


def refusal(status: status_pb2.Status, http_status: int = 0) -> Response:
    """Return an error: a google.rpc.Status in JSON, with the headers that HTTP has for it."""
    response = Response(_json(status), http_status or _STATUS.get(status.code, 500), media_type=_JSON)
    if status.code == code_pb2.UNAUTHENTICATED:
        response.headers["WWW-Authenticate"] = "Bearer"
    for detail in status.details:
        info = error_details_pb2.RetryInfo()
        if detail.Unpack(info):
            response.headers["Retry-After"] = str(
                max(1, math.ceil(info.retry_delay.ToTimedelta().total_seconds()))
            )
    return response


def _json(message: Message) -> str:
    """The contract's own names of fields, as errors give them; what is not set is there with its zero."""
    text: Any = json_format.MessageToJson(
        message,
        preserving_proto_field_name=True,
        always_print_fields_with_no_presence=True,
        indent=None,
        ensure_ascii=False,
    )
    return str(text)


def wanted(accept: str, *kinds: str) -> str:
    """Return the first of some kinds that an Accept header names, empty if it names none."""
    named = (part.partition(";")[0].strip().lower() for part in accept.split(","))
    return next((kind for kind in named if kind in kinds), "")


def table_of(message: Message) -> pa.Table:
    """Return an answer, a batch of answers or a page of items as a table."""
    if isinstance(message, pb.ListItemsResponse):
        rows = [_values(item, _LISTED) for item in message.items]
        table = pa.Table.from_pylist(rows, schema=ITEMS)
        return table.replace_schema_metadata({"next_page_token": message.next_page_token})
    if isinstance(message, pb.AttributeResponse):
        rows = _rows(0, message.attribution)
    else:
        assert isinstance(message, pb.AttributeBatchResponse)
        rows = []
        for place, result in enumerate(message.results):
            failed = result.HasField("error")
            rows += [_error(place, result.error)] if failed else _rows(place, result.attribution)
    return pa.Table.from_pylist(rows, schema=ANSWERS)


def write(table: pa.Table, kind: str) -> bytes:
    """Return a table as the bytes of an Arrow stream or of a Parquet file."""
    out = io.BytesIO()
    if kind == PARQUET:
        pq.write_table(table, out)
    else:
        with pa.ipc.new_stream(out, table.schema) as stream:
            stream.write_table(table)
    return out.getvalue()


def _rows(place: int, answer: pb.Attribution) -> list[dict[str, Any]]:
    whole = {"query": place, "rank": 0, "error_code": 0, **_values(answer, _OF_ANSWER)}
    return [{**whole, **_values(item, _OF_ITEM)} for item in answer.items] or [whole]


def _error(place: int, error: pb.Error) -> dict[str, Any]:
    return {"query": place, "rank": 0, **_values(error, _OF_ERROR, "error_")}


def _values(message: Message, names: tuple[str, ...], prefix: str = "") -> dict[str, Any]:
    return {prefix + name: getattr(message, name) for name in names}


async def printed(
    service: AttributionService,
    request: bytes,
    data: bytes,
    in_turn: Callable[[Callable[[], bytes]], Awaitable[bytes]],
) -> Response:
    """Return an answer as one page, with the picture that was asked about and those of its items.

    `request` is the AttributeRequest, `data` its AttributeResponse. Raises StatusError without reportlab.
    """
    try:
        from . import answer_pdf
    except ImportError as error:
        raise StatusError(
            status_pb2.Status(
                code=code_pb2.UNIMPLEMENTED, message=f"{error}; the server lacks attributary[pdf]"
            )
        ) from None
    answer = pb.AttributeResponse.FromString(data).attribution

    def thumbnail(item_id: int) -> bytes | None:
        try:
            return service.thumbnail(answer.bundle_id, item_id)
        except NotFoundError:
            # Deleted, or the bundle replaced, since it was named.
            return None

    def write() -> bytes:
        query = pb.AttributeRequest.FromString(request).query
        return answer_pdf.pdf_bytes(answer, query.prompt, _picture(query), thumbnail)

    return Response(
        await in_turn(write), media_type=PDF,
        headers={"Content-Disposition": 'attachment; filename="attribution.pdf"'},
    )  # fmt: skip


def _picture(query: pb.Query) -> NDArray[np.uint8] | None:
    """The square that the encoder sees, larger; None for an embedding."""
    if query.WhichOneof("input") == "pixels":
        shape = (query.pixels.height, query.pixels.width, 3)
        return np.frombuffer(query.pixels.data, np.uint8).reshape(shape)
    if not query.image:
        return None
    try:
        return read(query.image, _SIDE, max_bytes=len(query.image)).pixels
    except AttributaryError:
        # It has been answered for: a page without it is better than none.
        return None
