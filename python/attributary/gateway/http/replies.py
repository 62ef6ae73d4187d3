"""Replies as JSON, Arrow or Parquet, and errors as the JSON of a google.rpc.Status."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final

from google.protobuf import json_format
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2
from starlette.responses import Response

from attributary.v1 import attribution_pb2 as pb

from . import tables
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
_JSON: Final = "application/json"
_PICTURE: Final = "image/webp"
# Writing less than this takes about a millisecond.
_AT_ONCE_BYTES: Final = 16 << 10


async def reply(
    route: Route, data: bytes, accept: str, in_turn: Callable[[Callable[[], Response]], Awaitable[Response]]
) -> Response:
    """Return a message of the contract as the caller wants to read it: JSON unless a table is asked for."""
    if route.picture:
        return Response(pb.GetThumbnailResponse.FromString(data).image, media_type=_PICTURE)
    kind = tables.wanted(accept) if route.table else ""
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
        return Response(tables.write(tables.table_of(message), kind), media_type=kind)
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
