import asyncio
import math
import threading
from time import monotonic, perf_counter

import numpy as np
import pytest

from attributary import deadline
from attributary.attribution.types import Filter, Prepared
from attributary.errors import DeadlineError, InvalidArgumentError, OverloadedError, UnavailableError
from attributary.gateway import callers
from attributary.gateway.batching import Batcher, Job
from attributary.gateway.callers import Caller
from attributary.gateway.errors import DefectError


class Log:
    def __init__(self):
        self.sizes, self.drops = [], []

    def batch(self, queue, size):
        self.sizes.append(size)

    def dropped(self, reason):
        self.drops.append(reason)


class Bench:
    """A batcher whose engine answers with the first value of the embedding, and waits for `gate`."""

    def __init__(self, **settings):
        self.loop = asyncio.get_running_loop()
        self.log = Log()
        self.gate = threading.Event()
        self.running = threading.Semaphore(0)
        self.batches = []
        self.batcher = Batcher("encode", self.run, self.loop, self.log, **{"max_batch": 4, **settings})

    def run(self, batch):
        values = [float(prepared.embedding[0]) for prepared in batch]
        self.batches.append(values)
        self.running.release()
        assert self.gate.wait(30)
        if 13.0 in values:
            raise ValueError("poison")
        if 14.0 in values:
            raise UnavailableError("milvus-7.inside:19530 is away")
        if 15.0 in values:
            raise OverloadedError("milvus-7.inside limits the rate", retry_after_s=2.0)
        self.remaining = deadline.remaining()
        return values

    def job(self, value, deadline=math.inf):
        prepared = Prepared(1, 1, Filter(), has_prompt=False, embedding=np.array([value], np.float32))
        job = Job(self.loop.create_future(), deadline, perf_counter(), prepared)
        self.batcher.put(job)
        return job

    async def busy(self):
        """Occupy the worker, so that what follows queues up."""
        first = self.job(0)
        await asyncio.to_thread(self.running.acquire)
        return first

    async def close(self):
        self.gate.set()
        await asyncio.to_thread(self.batcher.close)


@pytest.fixture
async def bench():
    made = Bench()
    yield made
    await made.close()


async def test_a_lone_query_runs_alone(bench):
    bench.gate.set()
    assert await bench.job(5).future == 5
    assert bench.batches == [[5]]


async def test_queries_that_wait_share_batches_of_at_most_max_batch_in_order(bench):
    first = await bench.busy()
    jobs = [bench.job(value) for value in range(1, 10)]
    bench.gate.set()
    assert await asyncio.gather(first.future, *(job.future for job in jobs)) == list(range(10))
    assert bench.batches == [[0], [1, 2, 3, 4], [5, 6, 7, 8], [9]]
    assert bench.log.sizes == [1, 4, 4, 1]


async def test_a_departed_caller_costs_no_work(bench):
    first = await bench.busy()
    gone, stays = bench.job(1), bench.job(2)
    gone.future.cancel()
    bench.gate.set()
    assert await asyncio.gather(first.future, stays.future) == [0, 2]
    assert bench.batches == [[0], [2]]
    assert bench.log.drops == ["departed"]


async def test_an_expired_query_is_dropped_and_told_so(bench):
    await bench.busy()
    late = bench.job(1, deadline=monotonic() - 1)
    bench.gate.set()
    with pytest.raises(DeadlineError):
        await late.future
    assert bench.batches == [[0]]
    assert bench.log.drops == ["expired"]


async def test_poison_fails_alone(bench):
    await bench.busy()
    jobs = [bench.job(value) for value in (1, 13, 2)]
    bench.gate.set()
    outcomes = await asyncio.gather(*(job.future for job in jobs), return_exceptions=True)
    assert outcomes[0] == 1
    assert outcomes[2] == 2
    assert isinstance(outcomes[1], DefectError)
    assert "poison" not in str(outcomes[1])


async def test_an_index_that_is_away_fails_the_batch_once_and_keeps_its_address(bench):
    first = await bench.busy()
    jobs = [bench.job(value) for value in (1, 14, 2)]
    bench.gate.set()
    assert await first.future == 0
    for job in jobs:
        with pytest.raises(UnavailableError, match=r"^the index behind this server is away$"):
            await job.future
    assert bench.batches == [[0], [1, 14, 2]]


async def test_an_index_that_limits_the_rate_is_asked_once(bench):
    first = await bench.busy()
    jobs = [bench.job(value) for value in (1, 15, 2)]
    bench.gate.set()
    assert await first.future == 0
    for job in jobs:
        with pytest.raises(OverloadedError, match=r"^the index behind this server is full$") as caught:
            await job.future
        assert caught.value.retry_after_s == 2.0
    assert bench.batches == [[0], [1, 15, 2]]


async def test_a_batch_may_take_as_long_as_its_most_patient_caller(bench):
    first = await bench.busy()
    jobs = [bench.job(value, deadline=monotonic() + left) for value, left in ((1, 100), (2, 900))]
    bench.gate.set()
    await first.future
    assert [await job.future for job in jobs] == [1, 2]
    assert 800 < bench.remaining <= 900


async def test_an_engine_that_miscounts_is_a_defect(bench):
    bench.batcher._run = lambda batch: []
    with pytest.raises(DefectError):
        await bench.job(1).future


async def test_a_delay_lets_a_batch_fill():
    bench = Bench(max_delay_s=30.0)
    bench.gate.set()
    jobs = [bench.job(value) for value in range(4)]
    await asyncio.gather(*(job.future for job in jobs))
    assert bench.batches == [[0, 1, 2, 3]]
    await bench.close()


async def test_a_delay_ends_for_a_lone_query():
    bench = Bench(max_delay_s=0.01)
    bench.gate.set()
    assert await bench.job(1).future == 1
    await bench.close()


async def test_closing_finishes_what_is_queued(bench):
    await bench.busy()
    job = bench.job(1)
    closing = asyncio.create_task(asyncio.to_thread(bench.batcher.close))
    bench.gate.set()
    assert await job.future == 1
    await closing


async def test_one_wake_up_of_the_loop_a_batch(bench, monkeypatch):
    await bench.busy()
    jobs = [bench.job(value) for value in range(1, 5)]
    calls = []
    original = bench.loop.call_soon_threadsafe

    def counting(callback, *args):
        calls.append(callback)
        return original(callback, *args)

    bench.batcher._loop = type("Loop", (), {"call_soon_threadsafe": staticmethod(counting)})()
    bench.gate.set()
    await asyncio.gather(*(job.future for job in jobs))
    assert len(calls) == 2


async def test_queue_time_is_what_the_other_phases_leave(bench):
    bench.gate.set()
    job = Job(bench.loop.create_future(), math.inf, perf_counter() - 1.0)
    job.prepared = Prepared(1, 1, Filter(), has_prompt=False, embedding=np.zeros(1, np.float32))
    job.prepared.timings.decode = 400.0
    bench.batcher.put(job)
    await job.future
    assert 600.0 <= job.prepared.timings.queue < 60_000.0


async def test_what_an_engine_raises_is_never_the_callers_fault(bench):
    bench.gate.set()
    bench.batcher._run = lambda batch: (_ for _ in ()).throw(InvalidArgumentError("embeddings", "NaN"))
    with pytest.raises(DefectError):
        await bench.job(1).future


async def test_a_callers_queries_queue_behind_its_own(bench):
    await bench.busy()
    for value in range(1, 6):
        callers.enter(Caller("loud", "1"))
        bench.job(value)
    callers.enter(Caller("quiet", "2"))
    quiet = bench.job(9)
    bench.gate.set()
    assert await quiet.future == 9
    assert bench.batches[1] == [1, 9, 2, 3]
