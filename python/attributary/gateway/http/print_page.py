"""`Accept: application/pdf`: an answer as one page, with the picture that was asked about and those of its items."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import numpy as np
from google.rpc import code_pb2, status_pb2
from numpy.typing import NDArray
from starlette.responses import Response

from attributary.errors import AttributaryError, NotFoundError
from attributary.pictures import read
from attributary.v1 import attribution_pb2 as pb

from ..service import AttributionService
from .context import RefusedError

KIND: Final = "application/pdf"
# Pixels of a side: 38 mm in print.
_SIDE: Final = 320


def wanted(accept: str) -> bool:
    """Whether an Accept header names PDF."""
    return any(part.partition(";")[0].strip().lower() == KIND for part in accept.split(","))


async def reply(
    service: AttributionService,
    request: bytes,
    data: bytes,
    in_turn: Callable[[Callable[[], bytes]], Awaitable[bytes]],
) -> Response:
    """Return the page of an AttributeRequest and its AttributeResponse; raises RefusedError without reportlab."""
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
        await in_turn(write), media_type=KIND,
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
