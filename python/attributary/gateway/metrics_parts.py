"""The metrics of a server with several processes: each shows its own on a socket, one page has them side by side."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

_TIMEOUT_S: Final = 1.0


class _Part(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True

    def __init__(self, path: Path, registry: CollectorRegistry) -> None:
        self._registry = registry
        super().__init__(str(path), socketserver.BaseRequestHandler)

    def finish_request(self, request: socket.socket | tuple[bytes, socket.socket], _address: object) -> None:
        """Whoever connects is told everything, once."""
        assert isinstance(request, socket.socket)
        request.settimeout(_TIMEOUT_S)
        with contextlib.suppress(OSError):
            request.sendall(generate_latest(self._registry))


def show(registry: CollectorRegistry, path: Path) -> Callable[[], None]:
    """Send a registry to every process that connects to the socket at `path`; return what ends that."""
    path.unlink(missing_ok=True)
    part = _Part(path, registry)
    thread = threading.Thread(target=part.serve_forever, name="metrics", daemon=True)
    thread.start()

    def stop() -> None:
        part.shutdown()
        part.server_close()
        thread.join()

    return stop


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
        link.settimeout(_TIMEOUT_S)
        link.connect(str(path))
        while data := link.recv(1 << 16):
            found += data
        return found.decode()
    return ""
