"""Admin calls that reach a process which does not write: handed on to the one that does."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from typing import Any, Final

import grpc
from google.rpc import status_pb2
from grpc import aio
from grpc_status import rpc_status

from attributary.errors import UnavailableError
from attributary.v1 import admin_pb2 as pb

from .admin import SERVICE, with_kinds
from .calls import Call, Front
from .errors import StatusError

# Who asks is decided twice, here and there; tracing goes on in the same trace.
_PASSED: Final = frozenset({"authorization", "traceparent", "tracestate"})
_OPTIONS: Final = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_receive_message_length", -1),
    # A process that was restarted is found again at once.
    ("grpc.max_reconnect_backoff_ms", 500),
)


class Forwarding:
    """The admin service of a process that does not write. Used from the event loop only."""

    def __init__(self, socket: Path, front: Front) -> None:
        """`socket` is where the writing process listens."""
        self._channel = aio.insecure_channel(f"unix:{socket}", options=_OPTIONS)
        names = [method.name for method in pb.DESCRIPTOR.services_by_name["AdminService"].methods]
        methods = {name: partial(self._forward, f"/{SERVICE}/{name}") for name in names}
        self.handlers = front.service(SERVICE, {}, with_kinds(methods))

    async def close(self) -> None:
        """Hang up."""
        await self._channel.close()

    async def _forward(self, path: str, call: Call) -> None:
        """Hand messages on both ways, and the status as it comes. On the wire a unary call is a stream of one."""
        metadata = [(key, value) for key, value in call.context.invocation_metadata() or () if key in _PASSED]
        onward: Any = self._channel.stream_stream(path)(
            metadata=metadata, timeout=call.context.time_remaining()
        )
        sending = asyncio.create_task(_send(call, onward))
        try:
            async for reply in onward:
                await call.write(reply)
        except (aio.AioRpcError, asyncio.CancelledError) as error:
            if sending.done() and not sending.cancelled() and (failure := sending.exception()):
                raise failure from None
            if isinstance(error, aio.AioRpcError):
                raise _relayed(error) from None
            raise
        finally:
            sending.cancel()
            onward.cancel()
            await asyncio.gather(sending, return_exceptions=True)


async def _send(call: Call, onward: Any) -> None:
    try:
        while (data := await call.read()) is not None:
            await onward.write(data)
        await onward.done_writing()
    except (aio.AioRpcError, asyncio.InvalidStateError):
        # It has ended already, and says why where replies are read.
        return
    except Exception:
        onward.cancel()
        raise


def _relayed(error: aio.AioRpcError) -> Exception:
    status = rpc_status.from_call(error)
    if status is not None:
        return StatusError(status)
    if error.code() is grpc.StatusCode.UNAVAILABLE:
        return UnavailableError("the process that changes bundles is not there yet; ask again")
    return StatusError(status_pb2.Status(code=error.code().value[0], message=str(error.details())))
