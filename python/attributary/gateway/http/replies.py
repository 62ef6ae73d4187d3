"""Replies as JSON, as a table (Arrow or Parquet) or as a page (PDF), and errors as the JSON of a google.rpc.Status."""

from __future__ import annotations

import io
import math
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from google.protobuf import json_format
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2
from numpy.typing import NDArray
from starlette.responses import Response

from attributary.errors import AttributaryError, NotFoundError
from attributary.pictures import read
from attributary.v1 import attribution_pb2 as pb

from ..service import AttributionService
from .context import RefusedError
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
_ANSWER: Final[list[tuple[str, pa.DataType]]] = [
    ("query", pa.uint32()),  # its place in the request
    ("rank", pa.uint32()),  # 0 in the only row of a query without items
    ("id", pa.int64()),
    ("similarity", pa.float32()),
    ("share", pa.float32()),
    ("caption", pa.string()),
    ("creator", pa.string()),
    ("licence", pa.string()),
    ("uri", pa.string()),
    ("diffuse_share", pa.float32()),
    ("withheld_share", pa.float32()),
    ("out_of_distribution", pa.bool_()),
    ("bundle_id", pa.string()),
    ("revision", pa.uint64()),
    ("error_code", pa.int32()),  # 0: an answer
    ("error_field", pa.string()),
    ("error_message", pa.string()),
]
_ITEM: Final[list[tuple[str, pa.DataType]]] = [
    ("id", pa.int64()),
    ("caption", pa.string()),
    ("creator", pa.string()),
    ("creator_url", pa.string()),
    ("licence", pa.string()),
    ("uri", pa.string()),
    ("near_dup_group", pa.int64()),
]
ANSWERS: Final = pa.schema(_ANSWER)
ITEMS: Final = pa.schema(_ITEM)


async def reply(
    route: Route, data: bytes, accept: str, in_turn: Callable[[Callable[[], Response]], Awaitable[Response]]
) -> Response:
    """Return a message of the contract as the caller wants to read it: JSON unless a table is asked for."""
    if route.picture:
        return Response(pb.GetThumbnailResponse.FromString(data).image, media_type=_PICTURE)
    kind = wanted(accept, ARROW, PARQUET) if route.table else ""
    if len(data) <= _AT_ONCE_BYTES and not kind:
        return Response(_json(route.response.FromString(data)), media_type=_JSON)
    return await in_turn(partial(_large, route, data, kind))


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


def _large(route: Route, data: bytes, kind: str) -> Response:
    message = route.response.FromString(data)
    if kind:
        return Response(write(table_of(message), kind), media_type=kind)
    return Response(_json(message), media_type=_JSON)


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
        rows = [{name: getattr(item, name) for name in ITEMS.names} for item in message.items]
        table = pa.Table.from_pylist(rows, schema=ITEMS)
        return table.replace_schema_metadata({"next_page_token": message.next_page_token})
    if isinstance(message, pb.AttributeResponse):
        rows = _rows(0, message.attribution)
    else:
        assert isinstance(message, pb.AttributeBatchResponse)
        rows = [
            row
            for place, result in enumerate(message.results)
            for row in (
                [_error(place, result.error)]
                if result.HasField("error")
                else _rows(place, result.attribution)
            )
        ]
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
    whole = {
        "query": place,
        "diffuse_share": answer.diffuse_share,
        "withheld_share": answer.withheld_share,
        "out_of_distribution": answer.out_of_distribution,
        "bundle_id": answer.bundle_id,
        "revision": answer.revision,
        "error_code": 0,
    }
    names = ("rank", "id", "similarity", "share", "caption", "creator", "licence", "uri")
    rows = [{**whole, **{name: getattr(item, name) for name in names}} for item in answer.items]
    return rows or [{**whole, "rank": 0}]


def _error(place: int, error: pb.Error) -> dict[str, Any]:
    return {
        "query": place,
        "rank": 0,
        "error_code": error.code,
        "error_field": error.field,
        "error_message": error.message,
    }


async def printed(
    service: AttributionService,
    request: bytes,
    data: bytes,
    in_turn: Callable[[Callable[[], bytes]], Awaitable[bytes]],
) -> Response:
    """Return an answer as one page, with the picture that was asked about and those of its items.

    `request` is the AttributeRequest, `data` its AttributeResponse. Raises RefusedError without reportlab.
    """
    try:
        from . import answer_pdf
    except ImportError as error:
        raise RefusedError(
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
