"""Prometheus metrics on a registry of their own.

What every query observes has histograms of ours: prometheus_client's take a lock and three microseconds each time.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import accumulate
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from attributary.attribution.types import PHASES, Timings
from attributary.v1 import admin_pb2, attribution_pb2

# Where queries wait for a batch.
QUEUES = ("encode", "search", "embed")
METHODS = [
    method.name
    for file in (attribution_pb2, admin_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
]
# An embedding is answered in well under a millisecond, a cold 50-megapixel picture in seconds.
SECONDS = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025),
    *(0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


class Series:
    """What was observed under one label. Observed by one thread; any other may read."""

    __slots__ = ("_bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self._bounds, value)] += 1
        self.total += value


class Histograms(Collector):
    """A Prometheus histogram with one label. `bounds` are the upper ends of its buckets, rising, without infinity."""

    def __init__(
        self, name: str, text: str, bounds: Sequence[float], label: str, registry: CollectorRegistry
    ) -> None:
        self._name, self._text, self._bounds, self._label = name, text, bounds, label
        self._ends = [*map(floatToGoString, bounds), "+Inf"]
        self._series: dict[str, Series] = {}
        registry.register(self)

    def labels(self, value: str) -> Series:
        """Return the series of a label's value; it is on the page from now on."""
        return self._series.setdefault(value, Series(self._bounds))

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """What the page shows."""
        family = HistogramMetricFamily(self._name, self._text, labels=(self._label,))
        # Copied first: another thread may add a label meanwhile.
        for value, series in list(self._series.items()):
            buckets = list(zip(self._ends, map(float, accumulate(list(series.counts))), strict=True))
            family.add_metric((value,), buckets, series.total)
        yield family


class Metrics:
    """What the gateway tells Prometheus. `call` and `query` are for the event loop, the rest for any thread."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        if Path("/proc/self/stat").exists():
            ProcessCollector(namespace="attributary", registry=self.registry)
        # Looked up once for each label: the library takes a lock for that.
        self._requests = self._counter("requests", "Calls ended, by method and gRPC code.", "method", "code")
        self._queries = self._counter("queries", "Queries answered or refused, by gRPC code.", "code")
        self._dropped = self._counter(
            "dropped", "Queries dropped from a queue before work, by reason.", "reason"
        )
        for reason in ("departed", "expired"):
            self._dropped(reason)
        durations = Histograms(
            "attributary_request_seconds", "Duration of a call.", SECONDS, "method", self.registry
        )
        self._seconds = cache(durations.labels)
        for method in METHODS:
            self._seconds(method)
        phases = Histograms(
            "attributary_phase_seconds",
            "Time of a query in each phase that it passed.",
            SECONDS,
            "phase",
            self.registry,
        )
        self._phases = tuple((phase, phases.labels(phase)) for phase in PHASES)
        sizes = Histogram(
            "attributary_batch_size",
            "Queries that shared a batch.",
            ("lane",),
            buckets=SIZES,
            registry=self.registry,
        )
        self._sizes = {queue: sizes.labels(queue) for queue in QUEUES}
        self._gauges: dict[str, Gauge] = {}

    def call(self, method: str, code: str, seconds: float) -> None:
        """A call has ended."""
        self._requests(method, code).inc()
        self._seconds(method).observe(seconds)

    def query(self, code: str, timings: Timings | None = None) -> None:
        """A query has been answered (with its timings) or refused."""
        self._queries(code).inc()
        if timings is not None:
            for phase, histogram in self._phases:
                spent = getattr(timings, phase)
                if spent:
                    histogram.observe(spent / 1e3)

    def batch(self, queue: str, size: int) -> None:
        """A batch starts."""
        self._sizes[queue].observe(size)

    def dropped(self, reason: str) -> None:
        """A query was dropped before work."""
        self._dropped(reason).inc()

    def watch(self, name: str, text: str, read: Callable[[], float], **labels: str) -> None:
        """Publish a gauge that is read when Prometheus asks."""
        gauge = self._gauges.get(name)
        if gauge is None:
            gauge = self._gauges[name] = Gauge(name, text, tuple(labels), registry=self.registry)
        (gauge.labels(**labels) if labels else gauge).set_function(read)

    def engine_up(self, up: bool) -> None:
        """Publish whether the engine on the network is there."""
        self.watch("attributary_engine_up", "Whether the engine on the network is there.", lambda: float(up))

    def engine_times(self, times: dict[str, dict[str, float]]) -> None:
        """Publish the engine's own account: part ("encoder", "index") -> phase ("queue", "compute") -> milliseconds."""
        for part, phases in times.items():
            for phase, spent in phases.items():
                self.watch(
                    "attributary_engine_seconds",
                    "Mean time of a request in a part of the engine on the network, by its own account.",
                    lambda spent=spent: spent / 1e3,  # type: ignore[misc]
                    part=part,
                    phase=phase,
                )

    def _counter(self, name: str, text: str, *labels: str) -> Callable[..., Counter]:
        return cache(Counter(f"attributary_{name}", text, labels, registry=self.registry).labels)
