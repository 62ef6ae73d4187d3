"""Before any path: whom this server is taken for, who sent a browser here, and what a browser may do with an answer."""

from __future__ import annotations

from typing import Final

from google.rpc import code_pb2, status_pb2
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .replies import refusal

# Scripts, styles and pictures of this server, and pictures that the page made; nothing from elsewhere, ever.
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS: Final = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "[::1]"})


class Guard:
    """An ASGI application around another."""

    def __init__(self, app: ASGIApp, hosts: frozenset[str]) -> None:
        self._app, self._hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse what a page of somebody else made a browser send; add the headers to every answer."""

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        refused = self._refused(scope)
        app = refusal(refused) if refused is not None else self._app
        await app(scope, receive, guarded)

    def _refused(self, scope: Scope) -> status_pb2.Status | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
        if self._hosts and name.lower() not in self._hosts:
            # A name that somebody turned to this address: that page would be of the same origin.
            return status_pb2.Status(
                code=code_pb2.PERMISSION_DENIED,
                message=f"this server does not answer to the name {name[:80]!r}; see --http-hosts",
            )
        if scope["method"] != "GET" and headers.get("sec-fetch-site") == "cross-site":
            return status_pb2.Status(
                code=code_pb2.PERMISSION_DENIED, message="pages of other servers must not ask this one"
            )
        return None
