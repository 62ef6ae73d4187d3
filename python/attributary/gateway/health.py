"""grpc.health.v1 and server reflection, over the same way in as every other call: bounded, counted, no tracebacks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final, TypeAlias

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, text_format
from grpc_health.v1 import health_pb2 as pb
from grpc_reflection.v1alpha import reflection, reflection_pb2

from attributary.errors import NotFoundError

from . import translate
from .calls import Call, Front, Kind

SERVICE: Final = "grpc.health.v1.Health"
Status: TypeAlias = "pb.HealthCheckResponse.ServingStatus"

OPEN: Final = Kind("open")


class Health:
    """Which services are served. Used from the event loop only."""

    def __init__(self) -> None:
        self._statuses: dict[str, Status] = {}
        self._changed = asyncio.Event()
        self._final = False

    def set(self, service: str, serving: bool) -> None:
        """Say whether a service is served; after `end` nothing changes any more."""
        states = pb.HealthCheckResponse
        self._statuses[service] = states.SERVING if serving and not self._final else states.NOT_SERVING
        self._changed.set()
        self._changed = asyncio.Event()

    def end(self) -> None:
        """Say NOT_SERVING of all, for good."""
        self._final = True
        for service in self._statuses:
            self.set(service, False)

    async def check(self, data: bytes, _call: Call) -> bytes:
        """How a service is now; raises NotFoundError."""
        service = translate.parse(pb.HealthCheckRequest, data).service
        status = self._statuses.get(service)
        if status is None:
            raise NotFoundError("service", service)
        return _reply(status)

    async def watch(self, call: Call) -> None:
        """How a service is, now and whenever that changes; does not end by itself."""
        data = await call.read()
        service = translate.parse(pb.HealthCheckRequest, data or b"").service
        sent = None
        while True:
            changed = self._changed
            status = self._statuses.get(service, pb.HealthCheckResponse.SERVICE_UNKNOWN)
            if status != sent:
                sent = status
                await call.write(_reply(status))
            else:
                await changed.wait()


def _reply(status: Status) -> bytes:
    reply: bytes = pb.HealthCheckResponse(status=status).SerializeToString()
    return reply


def reflection_handlers(services: list[str], front: Front) -> list[grpc.GenericRpcHandler]:
    """Return the handlers of server reflection for these services: v1, and v1alpha for older clients."""
    servicer = reflection.aio.ReflectionServicer(services)

    async def info(call: Call) -> None:
        async def requests() -> AsyncIterator[reflection_pb2.ServerReflectionRequest]:
            while (data := await call.read()) is not None:
                yield translate.parse(reflection_pb2.ServerReflectionRequest, data)

        async for reply in servicer.ServerReflectionInfo(requests(), None):
            await call.write(reply.SerializeToString())

    return [front.service(name, {}, {"ServerReflectionInfo": (info, Kind())}) for name in REFLECTION]


def _add_reflection_v1() -> str:
    """Make v1 known to those who ask for its description: it is v1alpha under another name, message by message."""
    stable = descriptor_pb2.FileDescriptorProto()
    reflection_pb2.DESCRIPTOR.CopyToProto(stable)
    words = text_format.MessageToString(stable).replace('".grpc.reflection.v1alpha.', '".grpc.reflection.v1.')
    stable = text_format.Parse(words, descriptor_pb2.FileDescriptorProto())
    stable.name, stable.package = "grpc/reflection/v1/reflection.proto", "grpc.reflection.v1"
    # The same file added twice is one.
    descriptor_pool.Default().AddSerializedFile(stable.SerializeToString())
    return f"{stable.package}.{stable.service[0].name}"


REFLECTION: Final = (_add_reflection_v1(), reflection.SERVICE_NAME)
