"""Histograms for what every query observes: prometheus_client's own take a lock and three microseconds each time."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString


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

    def describe(self) -> Iterator[HistogramMetricFamily]:
        """What `collect` will yield, without its values."""
        yield HistogramMetricFamily(self._name, self._text, labels=(self._label,))

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """What the page shows."""
        family = HistogramMetricFamily(self._name, self._text, labels=(self._label,))
        # Copied first: another thread may add a label meanwhile.
        for value, series in list(self._series.items()):
            buckets = list(zip(self._ends, map(float, accumulate(list(series.counts))), strict=True))
            family.add_metric((value,), buckets, series.total)
        yield family
