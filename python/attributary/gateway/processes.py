"""One server of several processes: the same ports (SO_REUSEPORT), the same mapped files, one of them the writer.

    this process                     ports are held for the others; ready line, metrics page, signals, restarts
    +- process 0                     serves; has the admin service, and writes where the server is the writer
    +- process 1, 2, ...             serve; follow the journal, and hand admin calls on to process 0

The kernel gives each connection to one of them. One that ends is started again while the others answer.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from time import monotonic
from typing import Any, Final, TypeAlias

import structlog
from prometheus_client import CollectorRegistry

from attributary.errors import AttributaryError, InvalidArgumentError
from attributary.machine import cores

from . import logs
from .config import GatewayConfig
from .metrics_page import MetricsPage, SideBySide
from .transport import server_context

log = structlog.get_logger(__name__)

# One that has been ready for so long and ends is no part of a row of failures.
_STEADY_S: Final = 60.0
# Before the next start, by failures in a row; then the server ends.
_WAIT_S: Final = (0.0, 0.5, 2.0, 5.0, 10.0)
_STATUS_FAILED: Final = 1


@dataclass(frozen=True, slots=True)
class Member:
    """One process of a server, as it sees itself."""

    number: int
    folder: Path  # of the server's private sockets

    @property
    def writes(self) -> bool:
        """Whether the admin service is here."""
        return self.number == 0

    @property
    def admin_socket(self) -> Path:
        """Where process 0 takes admin calls from the others."""
        return self.folder / "admin"

    @property
    def metrics_socket(self) -> Path:
        """Where the process tells its metrics."""
        return self.folder / f"metrics-{self.number}"


# Opens the bundles and serves them until SIGTERM, says through the last argument when, and returns the exit status. Can
# be pickled.
Serve: TypeAlias = Callable[[GatewayConfig, Member | None, Callable[[dict[str, Any]], None]], int]


def announce(facts: dict[str, Any]) -> None:
    """Print the line that says that a server is ready."""
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


def serve_processes(config: GatewayConfig, serve: Serve) -> int:
    """Serve in `config.processes` processes until SIGTERM or SIGINT; return the exit status. Blocks.

    It is 0 after a drain, and that of the process that could not start. Raises InvalidArgumentError for a port.
    """
    logs.configure(config)
    if not sys.platform.startswith("linux"):
        raise InvalidArgumentError(
            "processes", "more than one needs Linux, whose kernel shares connections out"
        )
    with (
        _private_folder() as folder,
        _held(config.host, config.port, "port") as port,
        _held(config.host, config.http_port, "http_port") as http_port,
    ):
        # One a core where nobody says otherwise, over all processes.
        threads = max(1, cores() // config.processes)
        shared = replace(
            config,
            port=port,
            http_port=http_port,
            metrics_port=-1,
            encode_workers=config.encode_workers or threads,
            prepare_threads=config.prepare_threads or threads,
        )
        members = [Member(number, folder) for number in range(config.processes)]
        page = None
        if config.metrics_port >= 0:
            registry = CollectorRegistry()
            registry.register(SideBySide([member.metrics_socket for member in members]))
            context = server_context(config) if config.metrics_tls else None
            page = MetricsPage(config.host, config.metrics_port, registry, context)
        try:
            return _Supervisor(shared, serve, members, page.server_port if page else None).run()
        finally:
            if page is not None:
                page.stop()


@dataclass(slots=True)
class _Child:
    member: Member
    process: SpawnProcess
    pipe: Connection
    ready_at: float = 0.0  # on the monotonic clock; 0 before


@dataclass(slots=True)
class _Supervisor:
    """Starts the processes of a server, starts them again when they end, and drains them."""

    config: GatewayConfig
    serve: Serve
    members: list[Member]
    metrics_port: int | None
    children: dict[int, _Child] = field(default_factory=dict)
    failures: dict[int, int] = field(default_factory=dict)  # in a row
    due: dict[int, float] = field(default_factory=dict)  # when one is started again
    announced: bool = False
    draining: bool = False
    status: int = 0

    def run(self) -> int:
        """Until all have ended."""
        with _signals() as wake:
            # The writer first: it may have to repair what a crash left, before others read it.
            self._start(self.members[0])
            while self.children or self.due:
                self._step(wake)
        log.info("ended")
        return self.status

    def _step(self, wake: socket.socket) -> None:
        by_source: dict[Any, _Child] = {}
        for child in self.children.values():
            by_source[child.process.sentinel] = child
            if not child.ready_at:
                by_source[child.pipe] = child
        patience = min(self.due.values(), default=monotonic() + 3600) - monotonic()
        for source in wait([*by_source, wake], max(0.0, patience)):
            if source is wake:
                wake.recv(4096)
                self._drain()
            elif source is by_source[source].pipe:
                self._hear(by_source[source])
        # What a process said before it ended has been heard by now.
        for child in [child for child in self.children.values() if not child.process.is_alive()]:
            self._ended(child)
        for number in [number for number, at in self.due.items() if at <= monotonic()]:
            del self.due[number]
            self._start(self.members[number])

    def _start(self, member: Member) -> None:
        here, there = multiprocessing.Pipe()
        config = self.config if member.writes else replace(self.config, writer=False)
        context = multiprocessing.get_context("spawn")
        process = context.Process(target=_run, args=(self.serve, config, member, there))
        process.start()
        there.close()
        self.children[member.number] = _Child(member, process, here)

    def _hear(self, child: _Child) -> None:
        try:
            ready = child.pipe.recv()
        except EOFError:
            child.process.join()
            return
        child.ready_at = monotonic()
        log.info("a process is ready", process=child.member.number, pid=child.process.pid)
        if self.announced or self.draining:
            return
        if child.member.writes:
            for member in self.members[1:]:
                self._start(member)
        if all(other.ready_at for other in self.children.values()):
            self.announced = True
            pids = [self.children[member.number].process.pid for member in self.members]
            announce({**ready, "metrics_port": self.metrics_port, "pids": pids})

    def _ended(self, child: _Child) -> None:
        number = child.member.number
        child.process.join()
        child.pipe.close()
        del self.children[number]
        if self.draining:
            # One that was still opening its bundles knows no other way to end.
            if child.process.exitcode not in (0, -signal.SIGTERM):
                self.status = self.status or _STATUS_FAILED
            return
        steady = child.ready_at and monotonic() - child.ready_at > _STEADY_S
        failures = self.failures[number] = 1 if steady else self.failures.get(number, 0) + 1
        code = child.process.exitcode
        if not self.announced or failures > len(_WAIT_S):
            log.error("a process cannot be kept, the server ends", process=number, status=code)
            self.status = code if code and code > 0 else _STATUS_FAILED
            self._drain()
            return
        delay = _WAIT_S[failures - 1]
        log.error("a process has ended and is started again", process=number, status=code, after_s=delay)
        self.due[number] = monotonic() + delay

    def _drain(self) -> None:
        """Tell all to; a second time, to hurry."""
        self.draining = True
        self.due.clear()
        for child in self.children.values():
            if child.process.is_alive():
                child.process.terminate()


def _run(serve: Serve, config: GatewayConfig, member: Member, pipe: Connection) -> None:
    """A process, from its beginning; its session is its own: Ctrl-C is for the one that looks after it."""
    os.setsid()
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_follow_to_the_end, args=(parent.sentinel,), daemon=True).start()
    structlog.contextvars.bind_contextvars(process=member.number)
    try:
        sys.exit(serve(config, member, pipe.send))
    except AttributaryError as error:
        sys.stderr.write(f"attributary: {error}\n")
        sys.exit(2)


def _follow_to_the_end(sentinel: int) -> None:
    wait([sentinel])
    os.kill(os.getpid(), signal.SIGTERM)


@contextlib.contextmanager
def _private_folder() -> Iterator[Path]:
    """A folder for sockets that nobody else may enter. Its name is short: a socket's has at most 107 characters."""
    place = tempfile.gettempdir()
    try:
        folder = tempfile.TemporaryDirectory(prefix="attributary-", dir=place if len(place) < 64 else "/tmp")
    except OSError as error:
        needed = f"need a temporary folder for their sockets: {error}"
        raise InvalidArgumentError("processes", needed) from None
    with folder as name:
        yield Path(name)


@contextlib.contextmanager
def _signals() -> Iterator[socket.socket]:
    """A socket that can be read when SIGTERM or SIGINT has come."""
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGTERM, signal.SIGINT)}
    former = signal.set_wakeup_fd(writer.fileno())
    try:
        yield reader
    finally:
        signal.set_wakeup_fd(former)
        for number, handler in before.items():
            signal.signal(number, handler)
        reader.close()
        writer.close()


@contextlib.contextmanager
def _held(host: str, port: int, name: str) -> Iterator[int]:
    """Keep a port for the processes; raises InvalidArgumentError if another server has it."""
    if port < 0:
        yield port
        return
    try:
        family, _, _, _, address = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            # Without SO_REUSEPORT: a server that is there keeps it for itself.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            address = probe.getsockname()
        held = socket.socket(family, socket.SOCK_STREAM)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind(address)
    except OSError as error:
        raise InvalidArgumentError(
            name, f"cannot listen on {host}:{port}: {error.strerror}; is another server there?"
        ) from None
    with held:
        # Bound and never listening: the kernel gives it no connection.
        yield int(address[1])
