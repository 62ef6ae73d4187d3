"""The paths of HTTP: the contract's methods through the one way in, health, the contract itself, the page."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

import structlog
from google.rpc import code_pb2, status_pb2
from grpc_health.v1 import health_pb2
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route as Path

from attributary.errors import AttributaryError
from attributary.generator.sampler import Sampler

from .. import callers
from ..calls import Answer, Call, Front, Kind
from ..errors import presentable, to_status
from ..health import OPEN, Health
from ..service import AttributionService, unary_methods
from . import openapi_file, page, print_page
from .bodies import read_message
from .context import RefusedError, nothing, while_there
from .guard import Guard, policy
from .making import Making
from .replies import refusal, reply
from .routes import ROUTES, Route

log = structlog.get_logger(__name__)
T = TypeVar("T")

_CODES: Final = {404: code_pb2.NOT_FOUND, 405: code_pb2.UNIMPLEMENTED}


class Site:
    """Makes the ASGI application of a gateway."""

    def __init__(self, front: Front, service: AttributionService, health: Health) -> None:
        self._front, self._service, self._health = front, service, health

    def app(
        self, hosts: frozenset[str], *, ui: bool, report: bytes | None = None, sampler: Sampler | None = None
    ) -> Guard:
        """Return the application; `hosts` are the names that it answers to (empty: any).

        `ui` adds the page, and to it the `report` of a run and what a generator makes, if there are any.
        """
        methods = unary_methods(self._service)
        paths = [
            Path(
                route.path,
                self._endpoint(route, self._front.answer(route.name, *methods[route.name])),
                methods=[route.method],
            )
            for route in ROUTES
        ]
        check = self._front.answer("Check", self._health.check, OPEN)
        paths += [Path("/healthz", _health(check)), Path("/openapi.json", _contract())]
        if ui:
            files = page.read_files(report=report is not None, generator=sampler is not None)
            paths += [Path(path, _file(file)) for path, file in files.items()]
        if report is not None:
            paths.append(Path("/report", self._report(report)))
        if sampler is not None:
            paths += Making(sampler, self._front).paths()
        handlers: dict[Any, Any] = {
            HTTPException: _no_path,
            RefusedError: _refused,
            Exception: _defect,
        }
        return Guard(
            Starlette(routes=paths, exception_handlers=handlers), hosts, policy(page.styles(report or b""))
        )

    async def _in_turn(self, work: Callable[[], T]) -> T:
        # Found only now: while a body comes another bundle may have taken the place of the one before.
        return await self._service.registry.current.in_turn(work)

    def _report(self, report: bytes) -> Callable[[Request], Awaitable[Response]]:
        """For those who may ask: a report shows what was generated."""

        async def read(_data: bytes, _call: Call) -> bytes:
            return report

        answer = self._front.answer("Report", read, Kind())

        async def serve(request: Request) -> Response:
            # As text: whoever opens it by its address must not get a page of this origin.
            return Response(await while_there(request, answer, nothing), media_type="text/plain")

        return serve

    def _endpoint(self, route: Route, answer: Answer) -> Callable[[Request], Awaitable[Response]]:
        async def serve(request: Request) -> Response:
            limit = self._front.receiver.limit
            most = self._service.registry.current.engine.limits.max_batch_queries
            accept = request.headers.get("accept", "")
            printed = route.name == "Attribute" and print_page.wanted(accept)
            request_bytes, caller = b"", callers.NOBODY

            async def body() -> bytes:
                nonlocal request_bytes, caller
                caller = callers.current()
                message = await read_message(request, route, limit, most, self._in_turn)
                request_bytes = message if printed else b""
                return message

            data = await while_there(request, answer, body)
            # What is written of an answer is its caller's work as well.
            callers.enter(caller)
            if printed:
                return await print_page.reply(self._service, request_bytes, data, self._in_turn)
            return await reply(route, data, accept, self._in_turn)

        return serve


def _health(check: Answer) -> Callable[[Request], Awaitable[Response]]:
    async def serve(request: Request) -> Response:
        async def body() -> bytes:
            wanted = health_pb2.HealthCheckRequest(service=request.query_params.get("service", ""))
            return bytes(wanted.SerializeToString())

        found = health_pb2.HealthCheckResponse.FromString(await while_there(request, check, body))
        name = health_pb2.HealthCheckResponse.ServingStatus.Name(found.status)
        return Response(
            f'{{"status": "{name}"}}', 200 if name == "SERVING" else 503, media_type="application/json"
        )

    return serve


def _contract() -> Callable[[Request], Awaitable[Response]]:
    text = openapi_file().read_bytes()

    async def serve(_request: Request) -> Response:
        return Response(text, media_type="application/json")

    return serve


def _file(file: page.File) -> Callable[[Request], Awaitable[Response]]:
    async def serve(request: Request) -> Response:
        headers = {"ETag": file.tag, "Cache-Control": "no-cache"}
        if request.headers.get("if-none-match") == file.tag:
            return Response(status_code=304, headers=headers)
        return Response(file.data, media_type=file.kind, headers=headers)

    return serve


async def _no_path(_request: Request, error: HTTPException) -> Response:
    code = _CODES.get(error.status_code, code_pb2.UNKNOWN)
    response = refusal(status_pb2.Status(code=code, message=str(error.detail)), error.status_code)
    response.headers.update(error.headers or {})
    return response


async def _refused(_request: Request, error: RefusedError) -> Response:
    return refusal(error.status)


async def _defect(_request: Request, error: Exception) -> Response:
    shown = error if isinstance(error, AttributaryError) else presentable(error, "http")
    return refusal(to_status(shown))
