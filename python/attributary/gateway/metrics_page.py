"""The page that Prometheus reads: a bounded number of threads, each for a bounded time, over TLS if it is asked for.

Of a server with several processes each shows its metrics on a socket, and one page has them side by side.
"""

from __future__ import annotations

import contextlib
import socket
import socketserver
import ssl
import threading
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from attributary.errors import InvalidArgumentError

_THREADS: Final = 8
# For a whole request: Prometheus asks in one packet.
_TIMEOUT_S: Final = 5.0
_PART_S: Final = 1.0


class _InThread(socketserver.ThreadingMixIn, socketserver.BaseServer):
    daemon_threads = True

    def start(self) -> None:
        """Answer in threads of its own, until `stop`."""
        self._thread = threading.Thread(target=self.serve_forever, name="metrics", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop listening."""
        self.shutdown()
        self.server_close()
        self._thread.join()


class MetricsPage(_InThread, HTTPServer):
    """Serves a registry under any path. Raises InvalidArgumentError if it cannot listen."""

    request_queue_size = 32

    def __init__(
        self, host: str, port: int, registry: CollectorRegistry, context: ssl.SSLContext | None = None
    ) -> None:
        self.registry = registry
        self._context = context
        self._free = threading.BoundedSemaphore(_THREADS)
        if ":" in host:
            self.address_family = socket.AF_INET6
        try:
            super().__init__((host, port), _Page)
        except OSError as error:
            raise InvalidArgumentError("metrics_port", f"cannot listen on {host}:{port}: {error}") from None
        self.start()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread; where all are busy, hang up."""
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer one request, and give the thread back."""
        # A timeout of the socket starts anew with each byte; this one does not.
        watchdog = threading.Timer(_TIMEOUT_S, _hang_up, (request,))
        watchdog.daemon = True
        watchdog.start()
        try:
            request.settimeout(_TIMEOUT_S)
            if self._context is not None:
                request = self._context.wrap_socket(request, server_side=True)
            super().process_request_thread(request, client_address)
        except OSError:
            self.shutdown_request(request)
        finally:
            watchdog.cancel()
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: what anybody sends to this port is no event."""


class _Page(BaseHTTPRequestHandler):
    server: MetricsPage
    # Read by the base class: the longest wait for a line.
    timeout = _TIMEOUT_S

    def do_GET(self) -> None:
        """The page."""
        encode, kind = choose_encoder(self.headers.get("Accept", ""))
        body = encode(self.server.registry)
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Say nothing."""


def _hang_up(request: socket.socket) -> None:
    with contextlib.suppress(OSError):
        request.shutdown(socket.SHUT_RDWR)


class Part(_InThread, socketserver.UnixStreamServer):
    """Sends a registry to every process that connects to the socket at `path`."""

    def __init__(self, path: Path, registry: CollectorRegistry) -> None:
        self._registry = registry
        path.unlink(missing_ok=True)
        super().__init__(str(path), socketserver.BaseRequestHandler)
        self.start()

    def finish_request(self, request: socket.socket | tuple[bytes, socket.socket], _address: object) -> None:
        """Whoever connects is told everything, once."""
        assert isinstance(request, socket.socket)
        request.settimeout(_PART_S)
        with contextlib.suppress(OSError):
            request.sendall(generate_latest(self._registry))


class SideBySide(Collector):
    """Every process's metrics with a label `process`, and which of them can be reached."""

    def __init__(self, paths: Sequence[Path]) -> None:
        """`paths` are the sockets, in the order of the processes."""
        self._paths = paths

    def collect(self) -> Iterator[Metric]:
        """Ask each process; one that is away has no metrics now."""
        up = GaugeMetricFamily(
            "attributary_process_up", "Whether a process of the server answers.", labels=("process",)
        )
        families: dict[str, Metric] = {}
        for number, path in enumerate(self._paths):
            text = _read(path)
            up.add_metric((str(number),), float(bool(text)))
            for family in text_string_to_metric_families(text):
                whole = families.setdefault(
                    family.name, Metric(family.name, family.documentation, family.type)
                )
                for sample in family.samples:
                    labels = {**sample.labels, "process": str(number)}
                    whole.add_sample(sample.name, labels, sample.value)
        yield up
        yield from families.values()


def _read(path: Path) -> str:
    found = bytearray()
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as link:
        link.settimeout(_PART_S)
        link.connect(str(path))
        while data := link.recv(1 << 16):
            found += data
        return found.decode()
    return ""
