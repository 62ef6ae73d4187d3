"""The page that Prometheus reads: a bounded number of threads, each for a bounded time, over TLS if it is asked for."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

_THREADS: Final = 8
# For a whole request: Prometheus asks in one packet.
_TIMEOUT_S: Final = 5.0


class MetricsPage(ThreadingHTTPServer):
    """Serves a registry under any path. Raises OSError if it cannot listen."""

    daemon_threads = True
    request_queue_size = 32

    def __init__(
        self, host: str, port: int, registry: CollectorRegistry, context: ssl.SSLContext | None = None
    ) -> None:
        self.registry = registry
        self._context = context
        self._free = threading.BoundedSemaphore(_THREADS)
        if ":" in host:
            self.address_family = socket.AF_INET6
        super().__init__((host, port), _Page)
        self._thread = threading.Thread(target=self.serve_forever, name="metrics", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop listening."""
        self.shutdown()
        self.server_close()
        self._thread.join()

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
