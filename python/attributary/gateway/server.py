"""The gateway's life: start, serve, drain on SIGTERM or SIGINT, end."""

from __future__ import annotations

import asyncio
import gc
import json
import signal
import socket
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import structlog
from grpc import aio
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection

from attributary.attribution.prepare import Preparer
from attributary.errors import InvalidArgumentError
from attributary.lifecycle.store import Store

from . import admin, health, logs
from .additions import AdditionHandler
from .admission import Admission
from .auth import Gate, server_context, server_credentials
from .calls import Front, Unknown
from .config import GatewayConfig
from .metrics import Metrics
from .pipeline import LANES, Pipeline, PipelineHolder
from .remote import Link, State, Watch
from .service import SERVICE, AttributionService, method_handlers
from .shedding import Shedder
from .stream import StreamHandler
from .transport import Receiver, hang_up, message_limit, options

log = structlog.get_logger(__name__)

# For replies that are on their way when the last query has been answered.
_LAST_WORDS_S = 0.1
_SWITCH_S = 0.0005


def serve(
    engine: Preparer, config: GatewayConfig, link: Link | None = None, store: Store | None = None
) -> int:
    """Serve an engine until SIGTERM or SIGINT, then drain; return 0. Blocks.

    `link` is where an engine on the network comes from; the server is ready before that engine is there, and says so
    through its health. `store` is what the admin service changes, if the config turns it on; it is closed at the end.

    One JSON line on standard output says when the server is ready:
    {"ready": true, "port": ..., "metrics_port": ...}.
    Raises InvalidArgumentError naming the setting, if it cannot start with this config.
    """
    logs.configure(config)
    # Taking a call costs the event loop several turns, and it waits for the interpreter's lock in each.
    sys.setswitchinterval(_SWITCH_S)
    return run(_serve(engine, config, link, store), config.event_loop)


def run(main: Coroutine[Any, Any, int], event_loop: str) -> int:
    """Run a coroutine on the event loop that the config names."""
    if event_loop == "uvloop":
        import uvloop

        return int(uvloop.run(main))
    return asyncio.run(main)


def address_of(host: str, port: int) -> str:
    """Return host:port, an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host and not host.startswith("[") else f"{host}:{port}"


def check_host(host: str) -> None:
    """Raise InvalidArgumentError if nobody knows the host to listen on."""
    try:
        socket.getaddrinfo(host.strip("[]"), None)
    except OSError as error:
        raise InvalidArgumentError("host", f"{host!r} is no address of this machine: {error}") from None


class Gateway:
    """A running server. `start`, then `drain`; `swap` replaces the engine in between."""

    def __init__(
        self,
        engine: Preparer,
        config: GatewayConfig,
        link: Link | None = None,
        store: Store | None = None,
    ) -> None:
        self.config = config
        self._store = store
        self._draining: set[asyncio.Task[None]] = set()
        self._state = State()
        self._link = link
        self._watching: asyncio.Task[None] | None = None
        self._cut = asyncio.Event()
        self.port = 0
        self.metrics_port: int | None = None
        self.metrics = Metrics()
        self.admission = Admission(config.permits, config.max_inflight_bytes, config.single_share)
        self.holder = PipelineHolder(Pipeline(engine, config, self.metrics, self._state))
        self._service = AttributionService(self.holder, self.admission, self.metrics, config)
        self._stream = StreamHandler(self._service)
        self._health = health.Health()
        self._message_limit = message_limit(config, engine.limits)
        self._gate = Gate(config)
        self._receiver = Receiver(self._message_limit, config.max_inflight_bytes, config.permits)
        self._shedder = Shedder(config.max_wait_s)
        self._front = Front(self._gate, self.admission, self._receiver, self._shedder, self.metrics, config)
        self._server = self._build()
        self._watch()
        self._stop_metrics: Callable[[], None] | None = None

    async def start(self) -> None:
        """Listen; raises InvalidArgumentError naming the setting that keeps the server from it."""
        self.port = self._bind()
        await self._server.start()
        self._shedder.start()
        self._publish()
        if self.config.metrics_port >= 0:
            self.metrics_port, self._stop_metrics = self.metrics.listen(
                self.config.host,
                self.config.metrics_port,
                server_context(self.config) if self.config.metrics_tls else None,
            )
        if self._link is None:
            await self._say(health_pb2.HealthCheckResponse.SERVING)
        else:
            await self._turn(False)
            watch = Watch(
                self._link,
                self._state,
                self.config,
                current=lambda: self.holder.current.engine,
                turn=self._turn,
                swap=self.swap,
                tell=self.metrics.engine_times,
            )
            await watch.look()
            self._watching = asyncio.create_task(watch.run())

    async def swap(self, engine: Preparer) -> None:
        """Answer new calls with `engine`; return when the last call of the engine before has ended."""
        await self._flip(engine)

    async def flip(self, engine: Preparer) -> None:
        """Answer new calls with `engine`; what the engine before still has to do goes on behind."""
        task = asyncio.ensure_future(self._flip(engine))
        self._draining.add(task)
        task.add_done_callback(self._draining.discard)

    def _flip(self, engine: Preparer) -> Coroutine[Any, Any, None]:
        drained = self.holder.swap(Pipeline(engine, self.config, self.metrics, self._state))
        self._publish()
        return drained

    async def drain(self, grace_s: float | None = None) -> None:
        """Say NOT_SERVING, refuse new calls, finish running ones within the grace, then end.

        Calls that outlast the grace, and all that come meanwhile, end as UNAVAILABLE.
        """
        self._health.end()
        await self._until_cut(self.config.drain_notice_s)
        if self._store is not None:
            # Minutes of work that may as well be done after a restart.
            self._store.give_up_compaction()
        self.admission.close()
        self._front.close()
        self._stream.drain()
        finished = asyncio.create_task(self._front.idle())
        await self._until_cut(self.config.drain_s if grace_s is None else grace_s, finished)
        finished.cancel()
        # Health watchers never hang up by themselves; only queries are worth the whole grace.
        self._front.cut()
        await asyncio.sleep(_LAST_WORDS_S)
        hang_up(self.port)
        await self._shedder.stop()
        await self._server.stop(0)
        await self.holder.current.close()
        await asyncio.gather(*self._draining)
        if self._store is not None:
            await asyncio.to_thread(self._store.close)
        if self._watching is not None and self._link is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
            await self._link.close()
        if self._stop_metrics is not None:
            await asyncio.to_thread(self._stop_metrics)

    async def cut(self) -> None:
        """End a drain now, its notice too: running calls end as UNAVAILABLE."""
        self._cut.set()

    async def _until_cut(self, seconds: float, finished: asyncio.Task[None] | None = None) -> None:
        """Wait so long, or until a cut, or until something has finished."""
        cut = asyncio.create_task(self._cut.wait())
        await asyncio.wait(
            {cut, finished} if finished else {cut}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED
        )
        cut.cancel()

    def _build(self) -> aio.Server:
        server = aio.server(options=options(self.config, self._message_limit))
        front = self._front
        handlers = [
            method_handlers(self._service, front, self._stream.converse),
            health.health_handlers(self._health, front),
        ]
        names = [SERVICE, health.SERVICE, reflection.SERVICE_NAME]
        if self._gate.has_admins:
            changes = admin.Changes(self._store, self.flip)
            additions = AdditionHandler(changes, self.admission, self.config)
            service = admin.AdminService(changes, self.admission)
            handlers.append(admin.method_handlers(service, front, additions.converse))
            names.append(admin.SERVICE)
        if self.config.reflection:
            handlers.append(health.reflection_handlers(names, front))
        server.add_generic_rpc_handlers((*handlers, Unknown(self.metrics)))
        return server

    def _bind(self) -> int:
        address = address_of(self.config.host, self.config.port)
        credentials = server_credentials(self.config)
        check_host(self.config.host)
        self._server.add_insecure_port(self._shedder.address)
        try:
            if credentials is None:
                return self._server.add_insecure_port(address)
            return self._server.add_secure_port(address, credentials)
        except RuntimeError:
            raise InvalidArgumentError(
                "port", f"cannot listen on {address}; is another server there?"
            ) from None

    async def _say(self, status: health_pb2.HealthCheckResponse.ServingStatus) -> None:
        for name in ("", SERVICE):
            self._health.set(name, status)

    async def _turn(self, up: bool) -> None:
        """The engine on the network has come or gone: health says so, and callers are told at once."""
        self.metrics.engine_up(up)
        states = health_pb2.HealthCheckResponse
        await self._say(states.SERVING if up else states.NOT_SERVING)

    def _publish(self) -> None:
        manifest = self.holder.current.engine.bundle.manifest
        self.metrics.serving(
            bundle_id=manifest.bundle_id,
            version=manifest.version,
            encoder=manifest.encoder.name,
            index=manifest.index.factory,
        )

    def _watch(self) -> None:
        self.metrics.watch("attributary_permits", "Permits that exist.", lambda: self.admission.permits)
        self.metrics.watch(
            "attributary_permits_in_use", "Permits that are taken.", lambda: self.admission.in_use
        )
        self.metrics.watch(
            "attributary_inflight_bytes", "Bytes of admitted requests.", lambda: self.admission.bytes_in_use
        )
        self.metrics.watch(
            "attributary_unfinished_messages",
            "Messages that are on their way in.",
            lambda: self._receiver.unfinished,
        )
        self.metrics.watch(
            "attributary_wait_seconds",
            "How long a call waits before the server takes it.",
            lambda: self._shedder.wait_s,
        )
        for lane in LANES:
            self.metrics.watch(
                "attributary_queue_length",
                "Prepared queries that wait for a batch.",
                lambda lane=lane: self.holder.current.queued(lane),  # type: ignore[misc]
                lane=lane,
            )


async def _serve(engine: Preparer, config: GatewayConfig, link: Link | None, store: Store | None) -> int:
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(logs.loop_problem)
    gateway = Gateway(engine, config, link, store)
    await gateway.start()
    # What is there now stays: garbage is looked for among what comes after it, which takes a fraction of the time.
    gc.collect()
    gc.freeze()
    asked = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked.set)
    ready = {"ready": True, "port": gateway.port, "metrics_port": gateway.metrics_port}
    sys.stdout.write(json.dumps(ready) + "\n")
    sys.stdout.flush()
    log.info("ready", bundle_id=gateway.holder.current.bundle_id, **ready)
    await asked.wait()
    log.info("draining", inside=gateway.admission.in_use, grace_s=config.drain_s)
    asked.clear()
    draining = asyncio.create_task(gateway.drain())
    impatient = asyncio.create_task(asked.wait())
    await asyncio.wait((draining, impatient), return_when=asyncio.FIRST_COMPLETED)
    if not draining.done():
        # A second signal ends the grace.
        await gateway.cut()
    impatient.cancel()
    await draining
    log.info("ended")
    return 0
