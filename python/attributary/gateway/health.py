"""grpc.health.v1 and server reflection, over the same way in as every other call: bounded, counted, no tracebacks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final, TypeAlias

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool
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

    def set(self, service: str, status: Status) -> None:
        """Say how a service is; after `end` nothing changes any more."""
        if not self._final:
            self._say(service, status)

    def end(self) -> None:
        """Say NOT_SERVING of all, for good."""
        self._final = True
        for service in self._statuses:
            self._say(service, pb.HealthCheckResponse.NOT_SERVING)

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

    def _say(self, service: str, status: Status) -> None:
        self._statuses[service] = status
        self._changed.set()
        self._changed = asyncio.Event()


def _reply(status: Status) -> bytes:
    reply: bytes = pb.HealthCheckResponse(status=status).SerializeToString()
    return reply


def health_handlers(health: Health, front: Front) -> grpc.GenericRpcHandler:
    """Return the handlers of grpc.health.v1."""
    return grpc.method_handlers_generic_handler(
        SERVICE,
        {
            "Check": front.unary("Check", health.check, OPEN),
            "Watch": front.stream("Watch", health.watch, OPEN),
        },
    )


def reflection_handlers(services: list[str], front: Front) -> list[grpc.GenericRpcHandler]:
    """Return the handlers of server reflection for these services: v1, and v1alpha for older clients."""
    servicer = reflection.aio.ReflectionServicer(services)

    async def info(call: Call) -> None:
        async def requests() -> AsyncIterator[reflection_pb2.ServerReflectionRequest]:
            while (data := await call.read()) is not None:
                yield translate.parse(reflection_pb2.ServerReflectionRequest, data)

        async for reply in servicer.ServerReflectionInfo(requests(), None):
            await call.write(reply.SerializeToString())

    handler = front.stream("ServerReflectionInfo", info, Kind())
    return [
        grpc.method_handlers_generic_handler(name, {"ServerReflectionInfo": handler}) for name in REFLECTION
    ]


def _add_reflection_v1() -> str:
    """Make v1 known to those who ask for its description: it is v1alpha under another name, message by message."""
    stable = descriptor_pb2.FileDescriptorProto()
    reflection_pb2.DESCRIPTOR.CopyToProto(stable)
    stable.name = "grpc/reflection/v1/reflection.proto"
    stable.package = "grpc.reflection.v1"
    for message in stable.message_type:
        for field in message.field:
            if field.type_name:
                field.type_name = _renamed(field.type_name)
    for service in stable.service:
        for method in service.method:
            method.input_type, method.output_type = _renamed(method.input_type), _renamed(method.output_type)
    # The same file added twice is one.
    descriptor_pool.Default().AddSerializedFile(stable.SerializeToString())
    return f"{stable.package}.{stable.service[0].name}"


def _renamed(name: str) -> str:
    return name.replace("grpc.reflection.v1alpha.", "grpc.reflection.v1.")


REFLECTION: Final = (_add_reflection_v1(), reflection.SERVICE_NAME)
