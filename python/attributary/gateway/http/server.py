"""The HTTP server beside gRPC's: the same event loop, one process."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import socket
import ssl
from collections.abc import Iterator
from typing import Final

import uvicorn

from attributary.errors import InvalidArgumentError
from attributary.generator.sampler import Sampler

from ..auth import server_context, tls_files
from ..calls import Front
from ..config import GatewayConfig
from ..health import Health
from ..reload import Watched
from ..service import AttributionService
from .app import Site
from .connections import Connections
from .guard import LOOPBACK
from .protocol import Protocol
from .turns import Turns

_KEEP_ALIVE_S: Final = 75
_LAST_WORDS_S: Final = 1


class _Server(uvicorn.Server):
    """uvicorn's server without its signals: the gateway has its own."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class HttpServer:
    """A running HTTP server. `start`, then `stop`."""

    def __init__(
        self, front: Front, service: AttributionService, health: Health, config: GatewayConfig
    ) -> None:
        self._config, self._untaken = config, front.untaken
        sampler = None if config.ui_generator is None else Sampler(config.ui_generator)
        app = Site(front, service, health).app(
            _hosts(config), ui=config.ui, report=_report(config), sampler=sampler
        )
        # What callers do wrong is counted and answered; uvicorn's own words about it would be logged in another form.
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        self._settings = uvicorn.Config(
            app,
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            # Who is asking is said by the connection, never by a header.
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=round(min(_KEEP_ALIVE_S, config.max_connection_idle_s)),
            timeout_graceful_shutdown=_LAST_WORDS_S,
        )
        self._server = _Server(self._settings)
        self._metrics = service.metrics
        self._connections: Connections | None = None
        self._running: asyncio.Task[None] | None = None

    async def start(self) -> int:
        """Listen; return the port. Raises InvalidArgumentError."""
        listener = _listen(self._config.host, self._config.http_port, self._config.processes > 1)
        self._settings.load()
        config, turns = self._config, Turns()
        self._connections = Connections(
            listener,
            lambda address: Protocol(
                self._settings,
                self._server.server_state,
                {},
                head_s=config.receive_s,
                take_s=config.call_s,
                address=address,
                turns=turns,
                untaken=self._untaken,
            ),
            config.max_connections,
            _tls(config),
            turns,
            lambda: self._metrics.call("connection", "RESOURCE_EXHAUSTED", 0.0),
        )
        # It serves what the connections bring, and listens to nothing itself.
        self._running = asyncio.create_task(self._server.serve(sockets=[]))
        self._connections.start()
        return int(listener.getsockname()[1])

    async def stop(self) -> None:
        """Hang up; what has been answered is still sent, for a second."""
        if self._connections is not None:
            await self._connections.stop()
        self._server.should_exit = True
        if self._running is not None:
            await asyncio.gather(self._running, return_exceptions=True)


def _listen(host: str, port: int, shared: bool) -> socket.socket:
    bare = host.strip("[]")
    try:
        family, _, _, _, address = socket.getaddrinfo(bare, port, type=socket.SOCK_STREAM)[0]
        listener = socket.create_server(address[:2], family=family, backlog=1_024, reuse_port=shared)
    except OSError as error:
        raise InvalidArgumentError("http_port", f"cannot listen on {host}:{port}: {error.strerror}") from None
    listener.setblocking(False)
    return listener


def _tls(config: GatewayConfig) -> ssl.SSLContext | None:
    """TLS that follows its files: each connection takes the context that they make now."""
    first = server_context(config)
    if first is None:
        return None
    watched = Watched(lambda: server_context(config), tls_files(config))

    def newest(connection: ssl.SSLObject | ssl.SSLSocket, _name: str | None, _before: ssl.SSLContext) -> None:
        if watched.value is not None:
            connection.context = watched.value

    first.sni_callback = newest
    return first


def _report(config: GatewayConfig) -> bytes | None:
    if config.ui_report is None:
        return None
    try:
        return config.ui_report.read_bytes()
    except OSError as error:
        raise InvalidArgumentError("ui_report", f"cannot be read: {error}") from None


def _hosts(config: GatewayConfig) -> frozenset[str]:
    """The names that the server answers to: those that are set; else any, or this machine's if it alone is heard."""
    if config.http_hosts:
        return frozenset(name.strip().lower() for name in config.http_hosts.split(",") if name.strip())
    bare = config.host.strip("[]")
    with contextlib.suppress(ValueError):
        return LOOPBACK | {bare} if ipaddress.ip_address(bare).is_loopback else frozenset()
    return LOOPBACK if bare == "localhost" else frozenset()
