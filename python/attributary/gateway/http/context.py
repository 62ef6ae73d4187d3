"""One HTTP request as the way in of every call sees it: what `calls.Call` asks of gRPC's context, and no more."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from time import monotonic
from typing import Any, Final, NoReturn, cast

from google.rpc import code_pb2, status_pb2
from grpc import aio
from starlette.requests import ClientDisconnect, Request

from attributary.errors import InvalidArgumentError

from ..callers import peer_of
from ..calls import Answer
from ..errors import StatusError

# Seconds that the caller waits for the answer, as a gRPC deadline.
TIMEOUT_HEADER: Final = "x-timeout-seconds"
# Of a larger body each piece waits for its caller's turn.
_AT_ONCE_BYTES: Final = 1 << 18
_DETAILS: Final = "grpc-status-details-bin"


_LEFT: Final = status_pb2.Status(code=code_pb2.CANCELLED, message="the caller has left")
_LATE: Final = status_pb2.Status(
    code=code_pb2.DEADLINE_EXCEEDED, message="the caller's deadline passed before the answer was ready"
)


class HttpContext:
    """A request whose message is read by `body`, once its caller has been let in."""

    def __init__(self, request: Request, body: Callable[[], Awaitable[bytes]]) -> None:
        self._request = request
        self._body = body
        self._until = math.inf

    def peer(self) -> str:
        """Whoever is at the other end, as gRPC writes it."""
        client = self._request.client
        return "unknown:" if client is None else peer_of(client.host, client.port)

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        """The headers, names in lower case."""
        return tuple(self._request.headers.items())

    def auth_context(self) -> Mapping[str, list[bytes]]:
        """The name in the client's certificate, if it showed one."""
        name = getattr(self._request.state, "certificate", "")
        return {"x509_common_name": [name.encode()]} if name else {}

    def time_remaining(self) -> float | None:
        """Seconds until the caller's deadline, None without one."""
        return None if math.isinf(self._until) else self._until - monotonic()

    async def read(self) -> bytes:
        """The message, in protobuf's encoding; raises InvalidArgumentError."""
        self._until = _deadline(self._request.headers.get(TIMEOUT_HEADER))
        return await self._body()

    async def abort(self, _code: Any, _text: str, metadata: Any) -> NoReturn:
        """End the call with the google.rpc.Status that gRPC would have sent."""
        packed = next(value for name, value in metadata if name == _DETAILS)
        raise StatusError(status_pb2.Status.FromString(packed))


async def while_there(request: Request, answer: Answer, body: Callable[[], Awaitable[bytes]]) -> bytes:
    """Return the reply to a request; ends the work when its caller leaves. Raises StatusError."""
    whole = asyncio.Event()

    async def read() -> bytes:
        data = await body()
        whole.set()
        return data

    context = HttpContext(request, read)
    # A task of its own: the way in ends a call by cancelling its task.
    work: asyncio.Future[bytes] = asyncio.ensure_future(
        answer(cast("aio.ServicerContext[bytes, bytes]", context))
    )
    left = asyncio.ensure_future(_left(request, whole, context))
    try:
        await asyncio.wait((work, left), return_when=asyncio.FIRST_COMPLETED)
    finally:
        left.cancel()
        if not work.done():
            work.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        try:
            return await work
        finally:
            # The task keeps its error, and the error this frame.
            del work
    remaining = context.time_remaining()
    raise StatusError(_LEFT if remaining is None or remaining > 0 else _LATE)


async def _left(request: Request, whole: asyncio.Event, context: HttpContext) -> None:
    """Wait until the caller has hung up, or waits no longer."""
    await whole.wait()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(context.time_remaining()):
            while (await request.receive())["type"] != "http.disconnect":
                pass


async def nothing() -> bytes:
    """The body of a request that has none."""
    return b""


async def chunks(request: Request, limit: int) -> AsyncIterator[bytes]:
    """Yield the body as it arrives; raises InvalidArgumentError beyond `limit` bytes, told or sent."""
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit:
        raise InvalidArgumentError("request", f"has {declared} bytes, the limit is {limit}")
    if encoding := request.headers.get("content-encoding", ""):
        raise InvalidArgumentError("content-encoding", f"must not be used, got {encoding[:40]!r}")
    size = 0
    try:
        async for chunk in request.stream():
            size += len(chunk)
            if size > limit:
                raise InvalidArgumentError("request", f"has more than {limit} bytes, which is the limit")
            if size > _AT_ONCE_BYTES:
                await request.state.turn()
            if chunk:
                yield chunk
    except ClientDisconnect:
        raise InvalidArgumentError("request", "ended before its body was complete") from None


def _deadline(given: str | None) -> float:
    if given is None:
        return math.inf
    try:
        seconds = float(given)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < math.inf:
        raise InvalidArgumentError(TIMEOUT_HEADER, f"must be a number of seconds above 0, got {given[:40]!r}")
    return monotonic() + seconds
