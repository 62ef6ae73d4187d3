"""AttributeStream: results in the order of the requests, a bounded number of them read ahead."""

from __future__ import annotations

import asyncio
from time import perf_counter

from attributary.errors import InvalidArgumentError, UnavailableError
from attributary.v1 import attribution_pb2 as pb

from . import translate
from .calls import Call, deadline_of, report
from .errors import to_result
from .reply import embedded
from .service import AttributionService
from .translate import check_outline

MAX_REQUEST_ID_BYTES = 128
_METHOD = "AttributeStream"
_ATTRIBUTION = pb.AttributeStreamResponse.ATTRIBUTION_FIELD_NUMBER


class StreamHandler:
    """The bidirectional method. `drain` makes open streams finish what they have read and end."""

    def __init__(self, service: AttributionService) -> None:
        self._service = service
        self._open: set[_Conversation] = set()

    def drain(self) -> None:
        """Read no further messages on any stream."""
        for conversation in self._open:
            conversation.drain()

    async def converse(self, call: Call) -> None:
        """Serve one stream until the client has said all, leaves, or sends what cannot be read."""
        conversation = _Conversation(self._service, call)
        self._open.add(conversation)
        try:
            await conversation.run()
        finally:
            self._open.discard(conversation)


class _Conversation:
    """One stream: a reader that starts queries, and a writer that sends their results in order."""

    def __init__(self, service: AttributionService, call: Call) -> None:
        self._service = service
        self._call = call
        self._deadline = deadline_of(call)
        self._room = asyncio.Semaphore(service.config.read_ahead)
        # Bounded by the semaphore: every entry holds a place until its result is written.
        self._pending: asyncio.Queue[asyncio.Task[bytes] | None] = asyncio.Queue()
        self._tasks: set[asyncio.Task[bytes]] = set()
        self._reader: asyncio.Task[None] | None = None
        self._draining = False

    def drain(self) -> None:
        self._draining = True
        if self._reader is not None:
            self._reader.cancel()

    async def run(self) -> None:
        self._call.alive()
        reader = self._reader = asyncio.create_task(self._read())
        try:
            while (task := await self._pending.get()) is not None:
                await self._call.write(await task)
                self._call.alive()
                self._room.release()
            # Raises what stopped the reader, if anything did.
            await asyncio.gather(reader, return_exceptions=self._draining)
            if self._draining:
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
                self._start(data, await self._admitted(data))
        finally:
            self._pending.put_nowait(None)

    async def _admitted(self, data: bytes) -> float:
        arrived = perf_counter()
        await self._service.admission.wait(len(data))
        return arrived

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
            if len(message.request_id.encode()) > MAX_REQUEST_ID_BYTES:
                response.ClearField("request_id")
                raise InvalidArgumentError("request_id", f"must have at most {MAX_REQUEST_ID_BYTES} bytes")
            answer = await self._service.answer(message.request, self._deadline, arrived)
            return response.SerializeToString() + embedded(_ATTRIBUTION, answer)
        except Exception as error:
            response.error.CopyFrom(to_result(report(_METHOD, error)))
        return response.SerializeToString()
