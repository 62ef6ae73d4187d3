"""A gateway: what it is made of, its start, its drain and its end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypedDict, Unpack

import grpc
import structlog
from grpc import aio

from attributary.attribution.prepare import Preparer
from attributary.delta.store import Store
from attributary.errors import InvalidArgumentError

from . import admin, health, transport
from .access import Gate
from .additions import AdditionHandler
from .admission import Admission, Shedder
from .bundles import BundleService
from .calls import Front, Kind, Unknown
from .config import DEFAULT_ALIAS, GatewayConfig
from .following import HEALTH, Following
from .forwarding import Forwarding
from .gauges import watch_server
from .metrics import Metrics
from .metrics_page import MetricsPage, Part
from .opened import OpenBundle, Opened
from .pipeline import Costly, Pipeline
from .processes import Member
from .registry import Registry
from .remote import Link, State, Watch
from .resets import hang_up_on_resets
from .service import SERVICE, AttributionService, Receipts, unary_methods
from .sockets import hang_up, make_room
from .stream import StreamHandler
from .tracing import tracing_of

if TYPE_CHECKING:
    from .http.server import HttpServer

log = structlog.get_logger(__name__)

_MAKE_ROOM_S: Final = 0.1
# For replies that are on their way when the last query has been answered.
_LAST_WORDS_S = 0.1


class More(TypedDict, total=False):
    """Bundles beside the one that a gateway begins with."""

    alias: str  # of the one it begins with, which is the default
    others: Mapping[str, Opened]  # by alias
    open_bundle: OpenBundle  # for LoadBundle; blocks
    member: Member | None  # which of several processes this is
    # Told the ports when the server is ready; else standard output is.
    ready: Callable[[dict[str, Any]], None]


class Gateway:
    """A running server. `start`, then `drain`; `registry` has the bundles, `swap` replaces the default's in between."""

    def __init__(
        self,
        engine: Preparer,
        config: GatewayConfig,
        link: Link | None = None,
        store: Store | None = None,
        **more: Unpack[More],
    ) -> None:
        self.config = config
        self._open_bundle = more.get("open_bundle")
        self._member = more.get("member")
        self._forwarding: Forwarding | None = None
        self._state = State()
        self._link = link
        self._tasks: list[asyncio.Task[None]] = []
        self._following: Following | None = None
        self._cut = asyncio.Event()
        self.port = 0
        self.metrics_port: int | None = None
        self.http_port: int | None = None
        self.metrics = Metrics()
        self.admission = Admission(config.permits, config.max_inflight_bytes, config.single_share)
        others = more.get("others", {})
        # Engines on the network that are looked after; those that LoadBundle brings have been looked at.
        self._others = {} if link is None else {opened.engine: State() for opened in others.values()}
        self._states = {engine: self._state, **self._others}
        self._costly = Costly(config)
        self._watches: dict[Preparer, asyncio.Task[None]] = {}
        self.registry = Registry(
            self._pipeline,
            more.get("alias", DEFAULT_ALIAS),
            pinned_s=config.pinned_s,
            max_draining=config.max_draining,
            changed=self._forget,
        )
        for alias, opened in {self.registry.default: Opened(engine, store), **others}.items():
            if any(served.pipeline.engine is opened.engine for served in self.registry.bundles):
                self.registry.set_alias(alias, opened.engine.bundle.manifest.bundle_id)
            else:
                self.registry.check_newer(opened.engine)
                self.registry.swap(alias, opened.engine, opened.store)
        self._service = AttributionService(
            self.registry, self.admission, self.metrics, config, Receipts(config.receipt_key_file)
        )
        self._stream = StreamHandler(self._service)
        self._health = health.Health()
        # Services beside AttributionService; they are there while the server is.
        self._names = [health.SERVICE]
        self._message_limit = transport.message_limit(config, engine.limits)
        self._gate = Gate(config)
        self._tracing = tracing_of(config)
        self._receiver = transport.Receiver(self._message_limit, config.max_inflight_bytes, config.permits)
        self._shedder = Shedder(config.max_wait_s)
        self._front = Front(
            self._gate, self.admission, self._receiver, self._shedder, self.metrics, config, self._tracing
        )
        self._server = self._build()
        self._http = self._build_http()
        watch_server(self.metrics, self.registry, self.admission, self._receiver, self._shedder)
        self._page: MetricsPage | Part | None = None

    async def start(self) -> None:
        """Listen; raises InvalidArgumentError naming the setting that keeps the server from it."""
        self.port = self._bind()
        await self._server.start()
        if self._http is not None:
            self.http_port = await self._http.start()
        self._shedder.start()
        self._tasks.append(asyncio.create_task(self._make_room()))
        if self._member is not None:
            self._page = Part(self._member.metrics_socket, self.metrics.registry)
        if self.config.metrics_port >= 0:
            context = transport.server_context(self.config) if self.config.metrics_tls else None
            page = MetricsPage(self.config.host, self.config.metrics_port, self.metrics.registry, context)
            self.metrics_port, self._page = page.server_port, page
        if self._link is None:
            self._say(True)
        else:
            await self._turn(False)
            watch = Watch(
                self._link,
                self._state,
                self.config,
                lambda: self.registry.current.engine,
                self.swap,
                turn=self._turn,
                report=self.metrics.engine_times,
            )
            await watch.look()
            self._tasks.append(asyncio.create_task(watch.run()))
            self._look_after_others(self._link)
        self._health.set(HEALTH, True)
        if self.config.follow_poll_s and (self._open_bundle or self._link):
            self._following = self._follow()
            await self._following.start()

    def _look_after_others(self, link: Link) -> None:
        """Watch the engines behind the other aliases: health is the default's, and only that one follows."""
        config = replace(self.config, remote_follow=False)
        for engine, state in self._others.items():
            watch = Watch(link, state, config, lambda engine=engine: engine, self.swap)  # type: ignore[misc]
            state.changed.set()
            self._watches[engine] = asyncio.create_task(watch.run())

    async def swap(self, engine: Preparer) -> None:
        """Answer new calls with `engine`; return when the engine before has gone: see `Registry.swap`."""
        self._states[engine] = self._state
        await self.registry.swap(self.registry.default, engine)

    def _pipeline(self, engine: Preparer) -> Pipeline:
        return Pipeline(engine, self.config, self.metrics, self._costly, self._states.pop(engine, None))

    def _follow(self) -> Following:
        open_bundle = self._open_bundle
        return Following(
            # A bundle with a store is changed here; one that drains takes over the deletions of the one in its place.
            lambda: [
                served.pipeline.engine
                for served in self.registry.bundles
                if served.store is None and not served.draining
            ],
            self.registry.replace,
            partial(self._health.set, HEALTH),
            self.metrics,
            poll_s=self.config.follow_poll_s,
            reopen=None if self._link or open_bundle is None else lambda place: open_bundle(place).engine,
        )

    async def drain(self, grace_s: float | None = None) -> None:
        """Say NOT_SERVING, refuse new calls, finish running ones within the grace, then end.

        Calls that outlast the grace, and all that come meanwhile, end as UNAVAILABLE.
        """
        self._health.end()
        if self._following is not None:
            await self._following.close()
        await self._until_cut(self.config.drain_notice_s)
        for served in self.registry.bundles:
            if served.store is not None:
                # Minutes of work that may as well be done after a restart.
                served.store.give_up_compaction()
        self.admission.close()
        self._front.close()
        self._stream.drain()
        await self._until_cut(self.config.drain_s if grace_s is None else grace_s, self._front.idle())
        # Health watchers never hang up by themselves; only queries are worth the whole grace.
        self._front.cut()
        await asyncio.sleep(_LAST_WORDS_S)
        hang_up(self.port)
        if self._http is not None:
            await self._http.stop()
        await self._shedder.stop()
        await self._server.stop(0)
        if self._forwarding is not None:
            await self._forwarding.close()
        tasks = [*self._tasks, *self._watches.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.registry.close()
        await asyncio.to_thread(self._costly.close)
        if self._link is not None:
            await self._link.close()
        if self._service.query_log is not None:
            await asyncio.to_thread(self._service.query_log.close)
        if self._page is not None:
            await asyncio.to_thread(self._page.stop)
        if self._tracing is not None:
            await asyncio.to_thread(self._tracing.close)

    async def cut(self) -> None:
        """End a drain now, its notice too: running calls end as UNAVAILABLE."""
        self._cut.set()

    async def _until_cut(self, seconds: float, *finished: Coroutine[Any, Any, None]) -> None:
        """Wait so long, or until a cut, or until something has finished."""
        tasks: list[asyncio.Task[Any]] = [asyncio.create_task(one) for one in (self._cut.wait(), *finished)]
        await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()

    def _build(self) -> aio.Server:
        server = aio.server(options=transport.options(self.config, self._message_limit))
        front = self._front
        handlers = [
            front.service(
                SERVICE,
                unary_methods(self._service),
                {"AttributeStream": (self._stream.converse, Kind(bulk=True))},
            ),
            front.service(
                health.SERVICE,
                {"Check": (self._health.check, health.OPEN)},
                {"Watch": (self._health.watch, health.OPEN)},
            ),
        ]
        if self._gate.has_admins:
            handlers.append(self._admin())
            self._names.append(admin.SERVICE)
        if self.config.reflection:
            self._names.extend(health.REFLECTION)
            handlers += health.reflection_handlers([SERVICE, *self._names], front)
        server.add_generic_rpc_handlers((*handlers, Unknown(self.metrics)))
        return server

    def _build_http(self) -> HttpServer | None:
        if self.config.http_port < 0:
            return None
        try:
            from .http.server import HttpServer
        except ImportError as error:
            raise InvalidArgumentError("http_port", f"{error}; install attributary[http]") from None
        return HttpServer(self._front, self._service, self._health, self.config)

    def _admin(self) -> grpc.GenericRpcHandler:
        if self._member is not None and not self._member.writes:
            self._forwarding = Forwarding(self._member.admin_socket, self._front)
            return self._forwarding.handlers
        changes = admin.Changes(self.registry)
        additions = AdditionHandler(changes, self.admission, self.config)
        self.bundles = BundleService(
            self.registry,
            self.config,
            self._open_bundle,
            follows=self._link is not None and self.config.remote_follow,
        )
        unary = {**admin.AdminService(changes, self.admission).methods, **self.bundles.methods}
        return self._front.service(
            admin.SERVICE,
            admin.with_kinds({"AddItem": additions.add_item, **unary}),
            admin.with_kinds({"AddItems": additions.converse}),
        )

    def _bind(self) -> int:
        address = transport.address_of(self.config.host, self.config.port)
        credentials = transport.server_credentials(self.config)
        transport.check_host(self.config.host)
        self._server.add_insecure_port(self._shedder.address)
        if self._member is not None and self._member.writes:
            self._member.admin_socket.unlink(missing_ok=True)
            self._server.add_insecure_port(f"unix:{self._member.admin_socket}")
        try:
            if credentials is None:
                return self._server.add_insecure_port(address)
            return self._server.add_secure_port(address, credentials)
        except RuntimeError:
            raise InvalidArgumentError(
                "port", f"cannot listen on {address}; is another server there?"
            ) from None

    async def _make_room(self) -> None:
        while True:
            await asyncio.sleep(_MAKE_ROOM_S)
            ended = await asyncio.to_thread(make_room, self.port, self.config.max_connections)
            most_calls, running = self.config.max_connection_calls, self._front.running
            ended += await asyncio.to_thread(hang_up_on_resets, self.port, most_calls, running)
            for _ in range(ended):
                self.metrics.call("connection", "RESOURCE_EXHAUSTED", 0.0)

    def _say(self, serving: bool) -> None:
        for name in ("", SERVICE):
            self._health.set(name, serving)
        for name in self._names:
            self._health.set(name, True)

    async def _turn(self, up: bool) -> None:
        """The engine on the network has come or gone: health says so, and callers are told at once."""
        self.metrics.engine_up(up)
        self._say(up)

    def _forget(self) -> None:
        """End the watches of engines that serve no more."""
        served_now = {served.pipeline.engine for served in self.registry.bundles if not served.draining}
        for engine in [engine for engine in self._watches if engine not in served_now]:
            self._watches.pop(engine).cancel()
