"""The queueing model of benchmarks/capacity.py against what theory says."""

import numpy as np
import pytest

SCRIPT = "capacity_model"


@pytest.fixture(scope="module")
def model(script):
    return script


@pytest.fixture(scope="module")
def exponential():
    return np.random.default_rng(0).exponential(1.0, 200_000)


def test_one_server_waits_as_long_as_an_mm1_queue(model, exponential):
    # Mean time in an M/M/1 system: service / (1 - utilisation).
    found = model.simulate(exponential, model.Cluster(1, 1, 1), rate=0.5, queries=60_000)
    assert found.mean() == pytest.approx(1 / (1 - 0.5), rel=0.06)


def test_two_cores_wait_as_long_as_an_mm2_queue(model, exponential):
    # M/M/2: service / (1 - utilisation**2).
    found = model.simulate(exponential, model.Cluster(1, 1, 2), rate=1.0, queries=60_000)
    assert found.mean() == pytest.approx(1 / (1 - 0.5**2), rel=0.06)


def test_an_idle_fan_out_is_the_slowest_draw(model, exponential):
    # The mean of the largest of S exponentials is the S-th harmonic number.
    found = model.simulate(exponential, model.Cluster(8, 1, 1), rate=1e-3, queries=20_000)
    assert found.mean() == pytest.approx(sum(1 / place for place in range(1, 9)), rel=0.05)


def test_more_shards_make_the_tail_heavier_and_replicas_the_queue_shorter(model, exponential):
    def p99(*cluster):
        return np.quantile(model.simulate(exponential, model.Cluster(*cluster), 0.5, 20_000), 0.99)

    assert p99(1, 1, 1) < p99(8, 1, 1) < p99(64, 1, 1)
    assert p99(8, 4, 1) < p99(8, 1, 1)


def test_the_network_is_added(model):
    found = model.simulate(np.array([1.0]), model.Cluster(2, 1, 1), 1e-6, 1_000, hop=np.array([0.25]))
    assert found == pytest.approx(1.25)


def test_shards_do_not_raise_what_can_be_sustained_and_replicas_do(model):
    service = np.array([0.5, 1.5])
    assert model.sustainable(service, model.Cluster(1, 1, 1)) == 1.0
    assert model.sustainable(service, model.Cluster(64, 1, 1)) == 1.0
    assert model.sustainable(service, model.Cluster(64, 3, 4), 0.5) == 6.0


def test_sizing(model):
    node = model.Node(memory=100.0, cores=4, headroom=0.25)
    assert [model.shards_for_memory(items, 1.0, node) for items in (1, 75, 76, 7_500)] == [1, 1, 2, 100]
    assert model.shards_for_latency(1_000, lambda items: items, 1_000) == 1
    assert model.shards_for_latency(1_000, lambda items: items, 999) == 2
    assert model.shards_for_latency(1_000, lambda items: items, 100) == 16
    assert model.shards_for_latency(1_000, lambda items: 5.0, 1.0) is None
    assert model.replicas_for_rate(np.array([0.1]), cores=4, rate=100, utilisation=0.5) == 5
    assert model.Cluster(3, 5, 7).machines == 15


def test_quantiles_are_milliseconds(model):
    assert model.quantiles(np.full(10, 0.002)) == pytest.approx({"p50_ms": 2, "p99_ms": 2, "p999_ms": 2})
