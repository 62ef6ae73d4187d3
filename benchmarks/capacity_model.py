"""Fan-out as queues: what a query waits for when it must hear from every shard, and how many machines that takes.

Times are seconds, memory is bytes. Only NumPy: the tests load this file by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil

import numpy as np
from numpy.typing import NDArray

WARM_UP = 0.1  # share of the simulated queries that fill the queues and are not counted
QUANTILES = (0.5, 0.99, 0.999)


@dataclass(frozen=True, slots=True)
class Cluster:
    """S shards, each held by `replicas` machines of `cores`; one query occupies one core of one machine a shard."""

    shards: int
    replicas: int
    cores: int

    @property
    def machines(self) -> int:
        """All of them."""
        return self.shards * self.replicas


def simulate(
    service: NDArray[np.float64],
    cluster: Cluster,
    rate: float,
    queries: int = 20_000,
    hop: NDArray[np.float64] | None = None,
    seed: int = 0,
) -> NDArray[np.float64]:
    """Latencies of fan-out queries, [queries less warm-up].

    Poisson arrivals at `rate` a second. Each shard serves in order of arrival with the first free core of one of its
    replicas, taken in turn; its service time is drawn from the samples `service`, its network time from `hop`. The
    query ends with its slowest shard. Shards draw independently: `python benchmarks/capacity.py` compares that with
    measured shards.
    """
    rng = np.random.default_rng(seed)
    arrivals = np.cumsum(rng.exponential(1 / rate, queries))
    work = rng.choice(service, (queries, cluster.shards))
    away = np.zeros((queries, cluster.shards)) if hop is None else rng.choice(hop, (queries, cluster.shards))
    free = np.zeros((cluster.shards, cluster.replicas, cluster.cores))
    every = np.arange(cluster.shards)
    latency = np.empty(queries)
    for number, now in enumerate(arrivals.tolist()):
        turn = number % cluster.replicas
        cores = free[:, turn]
        first = cores.argmin(axis=1)
        ended = np.maximum(now, cores[every, first]) + work[number]
        cores[every, first] = ended
        latency[number] = (ended + away[number]).max() - now
    return latency[int(queries * WARM_UP) :]


def quantiles(latency: NDArray[np.float64]) -> dict[str, float]:
    """Milliseconds by name: p50_ms, p99_ms, p999_ms."""
    values = np.quantile(latency, QUANTILES) * 1e3
    return {
        f"p{str(q)[2:].ljust(2, '0')}_ms": float(value) for q, value in zip(QUANTILES, values, strict=True)
    }


def sustainable(service: NDArray[np.float64], cluster: Cluster, utilisation: float = 1.0) -> float:
    """Queries a second at which the cores of every shard are busy for `utilisation` of the time.

    Every query visits every shard, so shards do not add up; replicas and cores do.
    """
    return float(utilisation * cluster.replicas * cluster.cores / service.mean())


@dataclass(frozen=True, slots=True)
class Node:
    """A machine of the plan."""

    memory: float  # bytes
    cores: int
    headroom: float = (
        0.25  # of the memory, for the system, growth and a second bundle while one replaces another
    )

    @property
    def usable(self) -> float:
        """Bytes that an index may take."""
        return self.memory * (1 - self.headroom)


def shards_for_memory(items: int, bytes_per_item: float, node: Node) -> int:
    """The fewest shards whose index fits a node."""
    return max(1, ceil(items * bytes_per_item / node.usable))


def shards_for_latency(
    items: int, seconds: Callable[[float], float], slowest: float, most: int = 4_096
) -> int | None:
    """The fewest shards (a power of two) whose search takes at most `slowest` seconds; None if `most` do not.

    `seconds` gives the time of one search from the items of a shard.
    """
    shards = 1
    while shards <= most:
        if seconds(items / shards) <= slowest:
            return shards
        shards *= 2
    return None


def replicas_for_rate(service: NDArray[np.float64], cores: int, rate: float, utilisation: float) -> int:
    """The fewest replicas whose cores stay below `utilisation` at `rate` queries a second."""
    return max(1, ceil(rate / sustainable(service, Cluster(1, 1, cores), utilisation)))
