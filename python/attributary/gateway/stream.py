"""AttributeStream: results in the order of the requests, a bounded number of them read ahead."""

from __future__ import annotations

import asyncio
from time import perf_counter

from attributary.errors import InvalidArgumentError, UnavailableError
from attributary.v1 import attribution_pb2 as pb
from attributary.v1.admin_pb2 import AddItemsResponse

from . import translate
from .calls import Call, deadline_of, report
from .errors import to_result
from .reply import embedded
from .service import AttributionService
from .translate import check_outline

_MAX_REQUEST_ID_BYTES = 128
_METHOD = "AttributeStream"
_ATTRIBUTION = pb.AttributeStreamResponse.ATTRIBUTION_FIELD_NUMBER


def check_request_id(response: pb.AttributeStreamResponse | AddItemsResponse) -> None:
    """Raise InvalidArgumentError if what a response answers to has too long an id, which it loses."""
    if len(response.request_id.encode()) > _MAX_REQUEST_ID_BYTES:
        response.ClearField("request_id")
        raise InvalidArgumentError("request_id", f"must have at most {_MAX_REQUEST_ID_BYTES} bytes")


class StreamHandler:
    """The bidirectional method. `drain` makes open streams finish what they have read and end."""

    def __init__(self, service: AttributionService) -> None:
        self.service = service
        self.readers: set[asyncio.Task[None]] = set()
        self.draining = False

    def drain(self) -> None:
        """Read no further messages on any stream."""
        self.draining = True
        for reader in self.readers:
            reader.cancel()

    async def converse(self, call: Call) -> None:
        """Serve one stream until the client has said all, leaves, or sends what cannot be read."""
        await _Conversation(self, call).run()


class _Conversation:
    """One stream: a reader that starts queries, and a writer that sends their results in order."""

    def __init__(self, handler: StreamHandler, call: Call) -> None:
        self._handler, self._service, self._call = handler, handler.service, call
        self._deadline = deadline_of(call)
        self._room = asyncio.Semaphore(self._service.config.read_ahead)
        # Bounded by the semaphore: every entry holds a place until its result is written.
        self._pending: asyncio.Queue[asyncio.Task[bytes] | None] = asyncio.Queue()
        self._tasks: set[asyncio.Task[bytes]] = set()

    async def run(self) -> None:
        self._call.alive()
        reader = asyncio.create_task(self._read())
        self._handler.readers.add(reader)
        reader.add_done_callback(self._handler.readers.discard)
        try:
            while (task := await self._pending.get()) is not None:
                await self._call.write(await task)
                self._call.alive()
                self._room.release()
            # Raises what stopped the reader, if anything did.
            await asyncio.gather(reader, return_exceptions=self._handler.draining)
            if self._handler.draining:
                raise UnavailableError("the server is draining; results of what it has read were sent")
        finally:
            unfinished = (reader, *self._tasks)
            for task_ in unfinished:
                task_.cancel()
            await asyncio.gather(*unfinished, return_exceptions=True)

    async def _read(self) -> None:
        try:
            while True:
                await self._room.acquire()
                data = await self._call.read()
                if data is None:
                    return
                self._call.alive()
                arrived = perf_counter()
                await self._service.admission.wait(len(data))
                self._start(data, arrived)
        finally:
            self._pending.put_nowait(None)

    def _start(self, data: bytes, arrived: float) -> None:
        def left(task: asyncio.Task[bytes]) -> None:
            # Not in the task's own `finally`: one that is cancelled before its first step never gets there.
            self._tasks.discard(task)
            self._service.admission.release(1, len(data))

        task = asyncio.create_task(self._answer(data, arrived))
        self._tasks.add(task)
        task.add_done_callback(left)
        self._pending.put_nowait(task)

    async def _answer(self, data: bytes, arrived: float) -> bytes:
        # What cannot be read has no request_id to answer to: that ends the stream.
        check_outline(data, pb.AttributeStreamRequest.DESCRIPTOR)
        message = translate.parse(pb.AttributeStreamRequest, data)
        response = pb.AttributeStreamResponse(request_id=message.request_id)
        try:
            check_request_id(response)
            answer = await self._service.answer(message.request, self._deadline, arrived)
            return response.SerializeToString() + embedded(_ATTRIBUTION, answer)
        except Exception as error:
            response.error.CopyFrom(to_result(report(_METHOD, error)))
        return response.SerializeToString()
