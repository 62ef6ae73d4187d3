"""The way in that every call takes: who asks, a permit, the message, and one account of how it ended.

Handlers are of gRPC's streaming kind, also for single calls, because only those let the server say no before it has
received the message. On the wire there is no difference.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from time import monotonic, perf_counter
from typing import Any, Final, Literal, TypeAlias

import grpc
import structlog
from google.protobuf.message import Message
from grpc import aio

from attributary.errors import (
    DeadlineError,
    InvalidArgumentError,
    OverloadedError,
    UnauthenticatedError,
    UnavailableError,
)

from . import callers
from .access import Gate, Need
from .admission import PROBE, Admission, Pool, Shedder
from .callers import Caller
from .config import GatewayConfig
from .errors import abort, code_name, is_expected, presentable, to_status
from .metrics import Metrics
from .sockets import count_answer
from .tracing import Tracing
from .translate import parse
from .transport import Receiver

log = structlog.get_logger(__name__)

Access: TypeAlias = Literal["query", "admin", "open"]
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
UnaryMethod: TypeAlias = Callable[[Any, "Call"], Awaitable[Any]]  # see `Kind.request`
StreamMethod: TypeAlias = Callable[["Call"], Awaitable[None]]
# A method behind the way in: from a transport's context to the reply.
Answer: TypeAlias = Callable[["aio.ServicerContext[bytes, bytes]"], Awaitable[Any]]

_SERVICES: Final = {"query": "AttributionService", "admin": "AdminService"}
_SWEEP_S = 0.25
# Probes and reflection need no token to hold a stream open.
_OPEN_STREAMS = 128
# Of answers that a caller does not take: less than this is not counted. A part of the bytes that may be inside.
_SMALL_ANSWER_BYTES = 4 << 10
_UNTAKEN_PART = 4
# gRPC says within this time whether a call without a message has been cancelled.
_CANCEL_S = 1.0


@dataclass(frozen=True, slots=True)
class Kind:
    """What a method needs: whose token, a permit for its query, and whether it is a batch."""

    access: Access = "query"
    permit: bool = False
    bulk: bool = False
    need: Need | None = None  # the role; None: the one that is called as the service
    # What a unary method is given, and its reply is a message as well; None: bytes, both.
    request: type[Message] | None = None


class Call:
    """One call that is being served."""

    def __init__(self, context: aio.ServicerContext[bytes, bytes], front: Front, need: Need) -> None:
        self.caller = callers.NOBODY
        self.shown = ("", "")  # what it brings to say whose it is: `presented`
        self._need: Need = need
        self.failure: Exception | None = None
        self.context = context
        self._front = front
        self._task = asyncio.current_task()
        self._until = math.inf
        self._late = ""

    async def receive(self) -> bytes | None:
        """Return the next message as it was sent, None after the last."""
        data: object = await self.context.read()
        return data if isinstance(data, bytes) else None

    async def read(self) -> bytes | None:
        """Return the next message of a stream, None after the last; raises where its caller may not call any more."""
        data = await self.receive()
        if data is not None:
            # A stream is open for hours, and a token may be taken away meanwhile.
            owner = self._front.gate.look(self._need, *self.shown)
            if owner != self.caller.owner:
                self.caller = self.caller._replace(owner=owner)
                callers.enter(self.caller)
        return await self._front.receiver.open(data)

    async def write(self, data: bytes) -> None:
        """Send a message of a stream."""
        await self.context.write(data)

    def within(self, seconds: float, late: str) -> None:
        """Allow the call so many seconds from now; then it ends as DEADLINE_EXCEEDED with the words of `late`."""
        self._until, self._late = monotonic() + seconds, late

    def alive(self) -> None:
        """Something was sent or taken on a stream: its time of silence begins anew."""
        idle = self._front.stream_idle_s
        self.within(idle, f"nothing was sent or taken on this stream for {idle:g} s")

    def sweep(self, now: float) -> None:
        """End the call if its time is over."""
        if now > self._until:
            self.end(DeadlineError(self._late))

    def end(self, failure: Exception) -> None:
        """End the call with an error of ours."""
        if self.failure is None and self._task is not None:
            self.failure = failure
            self._task.cancel()

    def over(self) -> None:
        """Let the task go: it keeps how it ended, and that this call."""
        self._task = None


class Front:
    """Makes gRPC handlers of methods. `drain` refuses new calls; `cut` ends those that run as UNAVAILABLE."""

    def __init__(
        self,
        gate: Gate,
        admission: Admission,
        receiver: Receiver,
        shedder: Shedder,
        metrics: Metrics,
        config: GatewayConfig,
        tracing: Tracing | None = None,
    ) -> None:
        self.gate, self.receiver, self.stream_idle_s = gate, receiver, config.stream_idle_s
        self._admission, self._metrics, self._config = admission, metrics, config
        self._tracing, self._shedder = tracing, shedder
        self._streams = Pool(config.max_streams, 4, 0.0)
        self._open_streams = Pool(_OPEN_STREAMS, 4, 0.0)
        self.untaken = Pool(config.max_inflight_bytes // _UNTAKEN_PART, 1 << 20, 0.0)
        self._running: dict[Call, None] = {}
        self._busy = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._sweeping = False
        self._closed = False
        # Asked here once: even a logger that stays silent costs a query some microseconds.
        self._log_requests = config.log_level == "debug"

    def service(
        self,
        name: str,
        unary: Mapping[str, tuple[UnaryMethod, Kind]],
        streams: Mapping[str, tuple[StreamMethod, Kind]],
    ) -> grpc.GenericRpcHandler:
        """Return the handlers of a service: methods with one message and one reply, and those with any number."""
        handlers = {method: self._handler(method, *what) for method, what in unary.items()}
        handlers |= {method: self._stream_handler(method, *what) for method, what in streams.items()}
        return grpc.method_handlers_generic_handler(name, handlers)

    def _handler(self, name: str, method: UnaryMethod, kind: Kind) -> Handler:
        answer = self.answer(name, method, kind)

        async def handle(_requests: AsyncIterator[bytes], context: aio.ServicerContext[bytes, bytes]) -> Any:
            return await answer(context)

        return grpc.stream_unary_rpc_method_handler(handle)

    def answer(self, name: str, method: UnaryMethod, kind: Kind) -> Answer:
        """Return the way in to a unary method, for any transport whose context does what gRPC's does."""

        async def work(call: Call) -> bytes:
            return await self._unary(method, kind, call)

        async def serve(context: aio.ServicerContext[bytes, bytes]) -> Any:
            return await self._serve(name, kind, work, context)

        return serve

    def _stream_handler(self, name: str, method: StreamMethod, kind: Kind) -> Handler:
        async def work(call: Call) -> None:
            pool = self._open_streams if kind.access == "open" else self._streams
            if pool.used >= pool.most or not pool.is_fair(1, call.caller.name):
                raise OverloadedError(f"no more than {pool.most} streams are open at once", retry_after_s=1.0)
            pool.move(1, call.caller)
            try:
                await method(call)
            finally:
                pool.move(-1, call.caller)

        async def handle(_requests: AsyncIterator[bytes], context: aio.ServicerContext[bytes, bytes]) -> None:
            await self._serve(name, kind, work, context)

        return grpc.stream_stream_rpc_method_handler(handle)

    @property
    def running(self) -> int:
        """How many calls have been taken and have not ended."""
        return len(self._running)

    def close(self) -> None:
        """Refuse new calls, but for probes."""
        self._closed = True

    async def idle(self) -> None:
        """Wait until nothing but probes is running."""
        await self._idle.wait()

    def cut(self) -> None:
        """End every call that runs."""
        for call in self._running:
            call.end(UnavailableError("the server has ended; ask another one"))

    async def _serve(
        self,
        name: str,
        kind: Kind,
        work: Callable[[Call], Awaitable[Any]],
        context: aio.ServicerContext[bytes, bytes],
    ) -> Any:
        started = perf_counter()
        code = "OK"
        trace = None
        if self._tracing is not None and kind.access != "open":
            trace = self._tracing.begin(_SERVICES[kind.access], name, context.invocation_metadata())
        call = Call(context, self, kind.need or kind.access)
        self._enter(call, kind)
        try:
            call.shown = presented(context)
            call.caller = self._caller(kind, context.peer(), *call.shown)
            callers.enter(call.caller)
            return await work(call)
        except asyncio.CancelledError:
            if call.failure is None:
                code = ended_early(call)
                raise
            asyncio.current_task().uncancel()  # type: ignore[union-attr]
            failure = call.failure
            code = code_name(failure)
        except aio.BaseError:
            # A message could not be sent: the caller has gone.
            code = "CANCELLED"
            raise asyncio.CancelledError from None
        except Exception as error:
            failure = error
            code = code_name(failure)
        finally:
            self._leave(call, kind)
            seconds = perf_counter() - started
            self._metrics.call(name, code, seconds)
            if trace is not None:
                trace.end(code)
            if self._log_requests:
                log.debug("request", method=name, code=code, ms=round(seconds * 1e3, 3))
        return await abort(context, to_status(report(name, failure)))

    def _enter(self, call: Call, kind: Kind) -> None:
        self._running[call] = None
        if kind.access != "open":
            self._busy += 1
            self._idle.clear()
        self._sweep_soon()

    def _leave(self, call: Call, kind: Kind) -> None:
        del self._running[call]
        call.over()
        if kind.access != "open":
            self._busy -= 1
            if self._busy == 0:
                self._idle.set()

    def _caller(self, kind: Kind, peer: str, authorization: str, certificate: str) -> Caller:
        if peer.startswith("unix") and kind.access != "admin":
            # By a socket file come only the server's own calls, and admin calls that another of its processes hands on
            # with the caller's token.
            raise UnauthenticatedError
        owner = self.gate.admit(kind.need or kind.access, authorization, certificate)
        name = owner.name or callers.address_of(peer)
        if self._closed and kind.access != "open":
            raise UnavailableError("the server is draining; ask another one")
        if kind.access == "query":
            self._shedder.admit(name)
        return Caller(name, peer, kind.bulk, owner)

    async def _unary(self, method: UnaryMethod, kind: Kind, call: Call) -> bytes:
        size = 0
        if kind.permit:
            self._admission.take(1, 0)
        try:
            call.within(
                self._config.receive_s, f"the message did not arrive within {self._config.receive_s:g} s"
            )
            data = await self.receiver.read(call)
            if data is None:
                # The caller has gone, or its message was too large and gRPC ends the call; else there was none.
                await asyncio.sleep(_CANCEL_S)
                raise InvalidArgumentError("request", "no message was sent")
            if kind.permit:
                self._admission.grow(len(data))
                size = len(data)
            # A compaction takes the time that it takes.
            seconds = math.inf if kind.access == "admin" else self._config.call_s
            call.within(seconds, f"there was no answer within {seconds:g} s")
            reply: bytes
            if kind.request is None:
                reply = await method(data, call)
            else:
                # Here, not in gRPC: a message that cannot be read is answered with the field at fault.
                reply = (await method(parse(kind.request, data), call)).SerializeToString()
            if len(reply) > _SMALL_ANSWER_BYTES:
                count_answer(self.untaken, len(reply), call.caller, self._config.call_s)
            return reply
        finally:
            if kind.permit:
                self._admission.release(1, size)

    def _sweep_soon(self) -> None:
        if not self._sweeping:
            self._sweeping = True
            asyncio.get_running_loop().call_later(_SWEEP_S, self._sweep)

    def _sweep(self) -> None:
        self._sweeping = False
        now = monotonic()
        self.receiver.sweep(now)
        for call in self._running:
            call.sweep(now)
        if self._running or self.receiver.untidy:
            self._sweep_soon()


class Unknown(grpc.GenericRpcHandler):
    """Answers methods that nobody has with UNIMPLEMENTED, counted like any other call; and the server's own probes."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def service(self, details: grpc.HandlerCallDetails) -> Handler:
        """Return the refusal."""
        if details.method == PROBE:
            return grpc.stream_unary_rpc_method_handler(self._probe)
        return grpc.stream_stream_rpc_method_handler(self._refuse)

    async def _probe(self, asked: AsyncIterator[bytes], context: aio.ServicerContext[bytes, bytes]) -> bytes:
        # On the socket of its own; to others there is no such method.
        if not context.peer().startswith("unix"):
            await self._refuse(asked, context)
        return b""

    async def _refuse(self, _: AsyncIterator[bytes], context: aio.ServicerContext[bytes, bytes]) -> None:
        self._metrics.call("unknown", "UNIMPLEMENTED", 0.0)
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "there is no such method")


def presented(context: aio.ServicerContext[bytes, bytes]) -> tuple[str, str]:
    """What a call brings: its authorization header, and the name in its client's certificate; empty where nothing."""
    metadata: Any = context.invocation_metadata() or ()
    authorization = ""
    for key, value in metadata:
        if key == "authorization":
            authorization = str(value)
    names = context.auth_context().get("x509_common_name") or ()
    name = next((f"certificate {name.decode(errors='replace')}" for name in names), "")
    return authorization, name


def deadline_of(call: Call) -> float:
    """Return the caller's deadline on the monotonic clock, infinity without one."""
    left = call.context.time_remaining()
    return math.inf if left is None else monotonic() + left


def ended_early(call: Call) -> str:
    """Say why a call was cancelled: its deadline, or its caller."""
    left = call.context.time_remaining()
    return "DEADLINE_EXCEEDED" if left is not None and left <= 0 else "CANCELLED"


def report(name: str, error: Exception) -> Exception:
    """Log what went wrong with a call, and return the error that its caller may see."""
    if is_expected(error):
        # An overloaded server must not spend its time on telling so; the metrics count it.
        log_it = log.debug if isinstance(error, OverloadedError) else log.warning
        # The kind and the field, not the text: messages can quote what a caller sent.
        log_it("refused", method=name, code=code_name(error), field=getattr(error, "field", None))
    return presentable(error, name)
