"""The gauges of a running server: what it holds and who waits, read when Prometheus asks."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from .admission import Admission, Shedder
from .bundles import footprint
from .metrics import QUEUES, Metrics
from .registry import Registry
from .transport import Receiver


class Bundles(Collector):
    """Which bundles aliases lead to, and the bytes of each bundle that there is, those that drain too."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Account for what is there now."""
        memory = GaugeMetricFamily(
            "attributary_bundle_memory_bytes",
            "Memory of a bundle by an account of its parts: held, or mapped from a file.",
            labels=("bundle_id", "kind"),
        )
        info = GaugeMetricFamily(
            "attributary_bundle_info",
            "The bundles that aliases lead to.",
            labels=("alias", "bundle_id", "version", "encoder", "index"),
        )
        for served in self._registry.bundles:
            manifest = served.pipeline.engine.bundle.manifest
            about = (served.bundle_id, manifest.version, manifest.encoder.name, manifest.index.factory)
            for alias in self._registry.aliases_of(served):
                info.add_metric((alias, *about), 1)
            for kind, size in footprint(served.pipeline.engine)._asdict().items():
                memory.add_metric((served.bundle_id, kind), size)
        yield memory
        yield info


def watch_server(
    metrics: Metrics, registry: Registry, admission: Admission, receiver: Receiver, shedder: Shedder
) -> None:
    """Publish the gauges of a server."""
    metrics.registry.register(Bundles(registry))
    for name, text, read in (
        ("permits", "Permits that exist.", lambda: admission.permits),
        ("permits_in_use", "Permits that are taken.", lambda: admission.in_use),
        ("inflight_bytes", "Bytes of admitted requests.", lambda: admission.bytes_in_use),
        (
            "delta_revision",
            "Revision of the bundle that is served: grows with every change.",
            lambda: registry.current.engine.snapshot.revision,
        ),
        ("unfinished_messages", "Messages that are on their way in.", lambda: receiver.unfinished),
        ("wait_seconds", "How long a call waits before the server takes it.", lambda: shedder.wait_s),
    ):
        metrics.watch(f"attributary_{name}", text, read)
    for queue in QUEUES:
        metrics.watch(
            "attributary_queue_length",
            "Prepared queries that wait for a batch.",
            lambda queue=queue: sum(  # type: ignore[misc]
                served.pipeline.queued(queue) for served in registry.bundles
            ),
            lane=queue,
        )
