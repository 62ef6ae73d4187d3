"""The paths of HTTP: the contract's methods through the one way in, health, the contract itself, the page.

Before any path `Guard` looks whom this server is taken for and who sent a browser here, and says what a browser may do
with an answer.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from importlib.resources import files
from typing import Any, Final, TypeAlias, TypeVar

import structlog
from google.rpc import code_pb2, status_pb2
from grpc_health.v1 import health_pb2
from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route as Path
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from attributary.generator.sampler import Sampler

from .. import callers
from ..calls import Answer, Call, Front, Kind
from ..errors import StatusError, presentable, to_status
from ..health import OPEN, Health
from ..service import AttributionService, unary_methods
from . import OPENAPI
from .bodies import read_message
from .context import nothing, while_there
from .making import Making
from .replies import PDF, printed, refusal, reply, wanted
from .routes import ROUTES, Route

log = structlog.get_logger(__name__)
T = TypeVar("T")
Endpoint: TypeAlias = Callable[[Request], Awaitable[Response]]

_CODES: Final = {404: code_pb2.NOT_FOUND, 405: code_pb2.UNIMPLEMENTED}
_KINDS: Final = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
_HEADERS: Final = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "[::1]"})


def application(
    front: Front,
    service: AttributionService,
    health: Health,
    hosts: frozenset[str],
    *,
    ui: bool,
    report: bytes | None = None,
    sampler: Sampler | None = None,
) -> Guard:
    """Return the ASGI application of a gateway; `hosts` are the names that it answers to (empty: any).

    `ui` adds the page, and to it the `report` of a run and what a generator makes, if there are any.
    """
    methods = unary_methods(service)
    paths = [
        Path(
            route.path,
            _endpoint(route, front.answer(route.name, *methods[route.name]), service, front.receiver.limit),
            methods=[route.method],
        )
        for route in ROUTES
    ]
    paths.append(Path("/healthz", _health(front.answer("Check", health.check, OPEN))))
    paths.append(Path("/openapi.json", _file(OPENAPI.read_bytes(), "application/json")))
    if ui:
        paths += _page({"report": report is not None, "generator": sampler is not None})
    if report is not None:
        paths.append(Path("/report", _report(report, front)))
    if sampler is not None:
        paths += Making(sampler, front).paths()
    handlers: dict[Any, Any] = {HTTPException: _no_path, StatusError: _refused, Exception: _defect}
    site = Starlette(routes=paths, exception_handlers=handlers)
    return Guard(site, hosts, policy(styles(report or b"")))


def _report(report: bytes, front: Front) -> Endpoint:
    """For those who may ask: a report shows what was generated."""

    async def read(_data: bytes, _call: Call) -> bytes:
        return report

    answer = front.answer("Report", read, Kind())

    async def serve(request: Request) -> Response:
        # As text: whoever opens it by its address must not get a page of this origin.
        return Response(await while_there(request, answer, nothing), media_type="text/plain")

    return serve


def _endpoint(route: Route, answer: Answer, service: AttributionService, limit: int) -> Endpoint:
    async def in_turn(work: Callable[[], T]) -> T:
        # Found only now: while a body comes another bundle may have taken the place of the one before.
        return await service.registry.current.in_turn(work)

    async def serve(request: Request) -> Response:
        most = service.registry.current.engine.limits.max_batch_queries
        accept = request.headers.get("accept", "")
        on_paper = route.name == "Attribute" and wanted(accept, PDF)
        request_bytes, caller = b"", callers.NOBODY

        async def body() -> bytes:
            nonlocal request_bytes, caller
            caller = callers.current()
            message = await read_message(request, route, limit, most, in_turn)
            request_bytes = message if on_paper else b""
            return message

        data = await while_there(request, answer, body)
        # What is written of an answer is its caller's work as well.
        callers.enter(caller)
        if on_paper:
            return await printed(service, request_bytes, data, in_turn)
        return await reply(route, data, accept, in_turn)

    return serve


def _health(check: Answer) -> Endpoint:
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


def _page(views: Mapping[str, bool]) -> list[Path]:
    """The files of the page, read once; `/page.json` says which views this server has.

    Nothing on the page is made from what anybody sent.
    """
    found = {"/page.json": _file(json.dumps(views).encode(), "application/json")}
    for entry in (files("attributary.gateway.http") / "static").iterdir():
        if kind := _KINDS.get("." + entry.name.rpartition(".")[2]):
            found["/" + entry.name] = _file(entry.read_bytes(), kind)
    found["/"] = found["/index.html"]
    return [Path(path, serve) for path, serve in found.items()]


def _file(data: bytes, kind: str) -> Endpoint:
    headers = {"ETag": f'"{hashlib.sha256(data).hexdigest()[:16]}"', "Cache-Control": "no-cache"}

    async def serve(request: Request) -> Response:
        if request.headers.get("if-none-match") == headers["ETag"]:
            return Response(status_code=304, headers=headers)
        return Response(data, media_type=kind, headers=headers)

    return serve


async def _no_path(_request: Request, error: HTTPException) -> Response:
    code = _CODES.get(error.status_code, code_pb2.UNKNOWN)
    response = refusal(status_pb2.Status(code=code, message=str(error.detail)), error.status_code)
    response.headers.update(error.headers or {})
    return response


async def _refused(_request: Request, error: StatusError) -> Response:
    return refusal(error.status)


async def _defect(_request: Request, error: Exception) -> Response:
    return refusal(to_status(presentable(error, "http")))


def policy(styles: Sequence[str] = ()) -> str:
    """Return the Content-Security-Policy: what is this server's, and pictures that the page made; nothing else, ever.

    `styles` are hashes ('sha256-...') of style sheets inside the report of a run, which has pictures inside, too.
    """
    own = " ".join(("'self'", *styles))
    return (
        f"default-src 'none'; script-src 'self'; style-src {own}; "
        f"img-src 'self' blob:{' data:' if styles else ''}; connect-src 'self'; "
        "form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
    )


class Guard:
    """An ASGI application around another."""

    def __init__(self, app: ASGIApp, hosts: frozenset[str], rules: str) -> None:
        self._app, self._hosts = app, hosts
        self._headers = {"Content-Security-Policy": rules, **_HEADERS}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse what a page of somebody else made a browser send; add the headers to every answer."""

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in self._headers.items():
                    headers.setdefault(name, value)
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        refused = self._refused(scope)
        app = refusal(refused) if refused is not None else self._app
        await app(scope, receive, guarded)

    def _refused(self, scope: Scope) -> status_pb2.Status | None:
        headers, why = Headers(scope=scope), ""
        host = headers.get("host", "")
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
        if self._hosts and name.lower() not in self._hosts:
            # A name that somebody turned to this address: that page would be of the same origin.
            why = f"this server does not answer to the name {name[:80]!r}; see --http-hosts"
        elif scope["method"] != "GET" and headers.get("sec-fetch-site") == "cross-site":
            why = "pages of other servers must not ask this one"
        return status_pb2.Status(code=code_pb2.PERMISSION_DENIED, message=why) if why else None


def styles(report: bytes) -> list[str]:
    """Return the hashes of the style sheets inside a report, as a Content-Security-Policy names them."""
    found = re.findall(rb"<style>(.*?)</style>", report, re.DOTALL)
    return [f"'sha256-{base64.b64encode(hashlib.sha256(text).digest()).decode()}'" for text in found]
