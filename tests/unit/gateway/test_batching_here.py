"""Short batches run on the event loop; what is more than a batch, and all once they are long, goes to the threads."""

import asyncio
import math
import threading
from time import perf_counter

import numpy as np
import pytest

from attributary.attribution.types import Filter, Options, Prepared, Query
from attributary.errors import DeadlineError
from attributary.gateway import batching, callers
from attributary.gateway.batching import Batcher, Job
from attributary.gateway.callers import Caller
from attributary.gateway.errors import DefectError
from attributary.gateway.pipeline import Costly, Pipeline


class Silent:
    def batch(self, lane, size):
        pass

    def dropped(self, reason):
        pass


class Bench:
    def __init__(self, **settings):
        self.loop, self.ran = asyncio.get_running_loop(), []
        self.batcher = Batcher(
            "search", self.run, self.loop, Silent(), **{"max_batch": 4, "here": True, **settings}
        )

    def run(self, batch):
        values = [float(prepared.embedding[0]) for prepared in batch]
        self.ran.append((threading.current_thread() is threading.main_thread(), len(values)))
        if 13.0 in values:
            raise ValueError("poison")
        return values

    def ask(self, value, deadline=math.inf, here=True):
        prepared = Prepared(1, 1, Filter(), has_prompt=False, embedding=np.array([value], np.float32))
        job = Job(self.loop.create_future(), deadline, perf_counter(), prepared)
        (self.batcher.put_here if here else self.batcher.put)(job)
        return job.future


@pytest.fixture
async def bench(monkeypatch, request):
    monkeypatch.setattr(batching, "_SHORT_S", math.inf)
    monkeypatch.setattr(batching, "_WAIT_S", math.inf)
    monkeypatch.setattr(batching, "_MANY", 2)
    monkeypatch.setattr(batching, "_LONG", 2)
    made = Bench(**getattr(request, "param", {}))
    for _ in range(2):
        await made.ask(1)
    made.ran.clear()
    yield made
    await asyncio.to_thread(made.batcher.close)


async def test_short_batches_run_on_the_event_loop_together_and_the_rest_in_a_thread(bench):
    assert await asyncio.gather(*map(bench.ask, range(6))) == [0, 1, 2, 3, 4, 5]
    assert sorted(bench.ran) == [(False, 2), (True, 4)] or sorted(bench.ran) == [
        (False, 1),
        (False, 1),
        (True, 4),
    ]
    assert len(bench.batcher) == 0


@pytest.mark.parametrize("limit", ["_SHORT_S", "_WAIT_S"])
async def test_after_long_ones_they_run_in_a_thread_until_enough_are_short(bench, monkeypatch, limit):
    with monkeypatch.context() as long:
        long.setattr(batching, limit, -1.0)
        await bench.ask(1)
        await bench.ask(2)
    for _ in range(3):
        await bench.ask(3)
    assert bench.ran == [(True, 1), (False, 1), (False, 1), (False, 1), (True, 1)]


async def test_one_that_was_long_among_many_does_not_send_the_others_away(bench, monkeypatch):
    monkeypatch.setattr(batching, "_LONG", 1)
    for _ in range(2):
        await bench.ask(1)
    with monkeypatch.context() as long:
        long.setattr(batching, "_WAIT_S", -1.0)
        await bench.ask(1)
    await bench.ask(2)
    assert bench.ran == [(True, 1)] * 4


@pytest.mark.parametrize("bench", [{"here": False}, {"max_delay_s": 1e-6}], indirect=True)
async def test_only_where_it_is_wanted(bench):
    await bench.ask(1)
    assert bench.ran == [(False, 1)]


async def test_poison_and_those_whose_time_is_over_fail_alone(bench):
    futures = [bench.ask(1), bench.ask(13), bench.ask(2, deadline=0.0)]
    gone = bench.ask(3)
    gone.cancel()
    found = await asyncio.gather(*futures, return_exceptions=True)
    assert found[0] == 1.0
    assert isinstance(found[1], DefectError)
    assert isinstance(found[2], DeadlineError)


async def test_what_is_put_for_a_thread_stays_off_the_loop(bench):
    assert await bench.ask(5, here=False) == 5.0
    assert bench.ran == [(False, 1)]


@pytest.mark.parametrize(
    ("filter_", "bulk", "way"),
    [
        (Filter(), False, "put_here"),
        (Filter(), True, "put"),
        (Filter(include_creators=("Ann",)), False, "put"),
    ],
)
async def test_filters_streams_and_batches_are_for_the_threads(engine, config, vector, filter_, bulk, way):
    pipeline = Pipeline(engine, config, Silent(), Costly(config))
    ways = []
    queue = pipeline._queues["search"]
    queue.put, queue.put_here = lambda job: ways.append("put"), lambda job: ways.append("put_here")
    callers.enter(Caller("ann", "c", bulk))
    pipeline.submit(Query(embedding=vector(1)), Options(filter=filter_), "query", math.inf, perf_counter())
    assert ways == [way]
    await pipeline.close()
