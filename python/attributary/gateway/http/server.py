"""The HTTP server beside gRPC's: the same event loop, one process.

Connections are taken one by one, so many of one caller, so many in all, counted from before any handshake: uvicorn
takes whatever comes, and counts a connection over TLS once its handshake is over, up to a minute later.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import socket
import ssl
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final

import structlog
import uvicorn
from starlette.responses import Response

from attributary.errors import InvalidArgumentError, OverloadedError
from attributary.generator.sampler import Sampler

from .. import callers
from ..admission import Pool
from ..callers import Caller
from ..calls import Front
from ..config import GatewayConfig
from ..errors import to_status
from ..fairness import Turns
from ..health import Health
from ..reload import Watched
from ..service import AttributionService
from ..transport import server_context, tls_files
from .app import LOOPBACK, application
from .protocol import Protocol
from .replies import refusal

log = structlog.get_logger(__name__)

# Below this there is nothing to divide.
_FEW: Final = 16
_HANDSHAKE_S: Final = 10
# As many as may wait to be taken.
_AT_ONCE: Final = 1_024
# Where the system has no more files or memory, asking at once again would be all that the event loop does.
_AGAIN_S: Final = 0.1
_KEEP_ALIVE_S: Final = 75
_LAST_WORDS_S: Final = 1


class Connections:
    """Takes connections from a listening socket. `start`, then `stop`; used from the event loop."""

    def __init__(
        self,
        listener: socket.socket,
        make: Callable[[str], Protocol],
        most: int,
        tls: ssl.SSLContext | None,
        turns: Turns,
        refused: Callable[[], None],
    ) -> None:
        """`make` is of the protocol of a connection from an address, `refused` is told of each one that is refused."""
        self._turns = turns
        self._listener, self._make, self._tls, self._refused = listener, make, tls, refused
        self._pool = Pool(most, _FEW, 0.0)
        self._tasks: set[asyncio.Task[None]] = set()
        error = OverloadedError(
            f"there are as many connections as there may be, of {most}", retry_after_s=1.0
        )
        self._no = b"" if tls is not None else _as_sent(refusal(to_status(error)))

    def start(self) -> None:
        """Begin to take connections."""
        asyncio.get_running_loop().add_reader(self._listener, self._accept)

    async def stop(self) -> None:
        """Take no more, and forget those that are still in their handshake. Stopping twice is no error."""
        if self._listener.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self) -> None:
        """Take what has come: all of it, since a busy event loop comes here seldom."""
        for _ in range(_AT_ONCE):
            try:
                line, address = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                log.error("connections cannot be taken", reason=error.strerror)
                loop = asyncio.get_running_loop()
                loop.remove_reader(self._listener)
                loop.call_later(_AGAIN_S, self._again)
                return
            line.setblocking(False)
            caller = Caller(callers.address_of(callers.peer_of(*address[:2])))
            if self._pool.used >= self._pool.most or not self._pool.is_fair(1, caller.name):
                self._refused()
                with contextlib.suppress(OSError), line:
                    line.send(self._no)
                continue
            self._pool.move(1, caller)
            task = asyncio.get_running_loop().create_task(self._serve(line, caller))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            task.add_done_callback(lambda _, caller=caller: self._pool.move(-1, caller))  # type: ignore[misc]

    def _again(self) -> None:
        # Else it was stopped meanwhile.
        if self._listener.fileno() >= 0:
            self.start()

    async def _serve(self, line: socket.socket, caller: Caller) -> None:
        try:
            await self._turns.queue((caller.name, ""))
        except asyncio.CancelledError:
            line.close()
            raise
        limit: Any = {} if self._tls is None else {"ssl_handshake_timeout": _HANDSHAKE_S}
        # What goes wrong in a handshake is its caller's affair.
        with contextlib.suppress(OSError):
            _, protocol = await asyncio.get_running_loop().connect_accepted_socket(
                partial(self._make, caller.name), line, ssl=self._tls, **limit
            )
            await protocol.gone.wait()


def _as_sent(response: Response) -> bytes:
    """A response as it is written to a connection that is closed behind it."""
    headers = b"".join(b"%s: %s\r\n" % pair for pair in response.raw_headers)
    head = b"HTTP/1.1 %d \r\n%sconnection: close\r\n\r\n" % (response.status_code, headers)
    return head + bytes(response.body)


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
        report = _report(config)
        app = application(
            front, service, health, _hosts(config), ui=config.ui, report=report, sampler=sampler
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
