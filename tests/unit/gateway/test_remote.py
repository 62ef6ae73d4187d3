"""The queue in front of an engine on the network, and the watch over it, with an engine that does as it is told."""

import asyncio
import math
from pathlib import Path
from time import monotonic, perf_counter
from types import SimpleNamespace

import pytest

from attributary.attribution.types import Filter, Prepared
from attributary.errors import (
    BundleError,
    DeadlineError,
    InvalidArgumentError,
    OverloadedError,
    UnavailableError,
)
from attributary.gateway import remote as module
from attributary.gateway.batching import Job
from attributary.gateway.errors import DefectError
from attributary.gateway.remote import RemoteQueue, State, Watch


class Told:
    def __init__(self):
        self.batches, self.drops = [], []

    def batch(self, queue, size):
        self.batches.append(size)

    def dropped(self, reason):
        self.drops.append(reason)


class Engine:
    """Answers with the query itself; `gate` closed holds every request; `error` is what it raises."""

    def __init__(self, bundle_id="a"):
        self.bundle = SimpleNamespace(manifest=SimpleNamespace(bundle_id=bundle_id))
        self.gate = asyncio.Event()
        self.gate.set()
        self.error = None
        self.poison = None
        self.requests, self.timeouts, self.cancelled = [], [], 0
        self.ready, self.sound, self.verified = True, True, 0

    async def infer(self, batch, timeout_s):
        self.requests.append(len(batch))
        self.timeouts.append(timeout_s)
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.error is not None:
            raise self.error
        if any(one is self.poison for one in batch):
            raise ZeroDivisionError("secret")
        return list(batch)

    async def embed_batch(self, batch, timeout_s):
        return await self.infer(batch, timeout_s)

    async def is_ready(self, timeout_s):
        if self.error is not None:
            raise self.error
        return self.ready

    async def verify(self):
        self.verified += 1
        if not self.sound:
            raise BundleError("encoder", "disagrees")
        return 1.0

    async def times(self, timeout_s):
        return {}


@pytest.fixture
async def remote():
    return Engine()


@pytest.fixture
async def told():
    return Told()


@pytest.fixture
async def state():
    made = State()
    made.up = True
    return made


@pytest.fixture
async def queue(remote, told, state):
    loop = asyncio.get_running_loop()
    return RemoteQueue("encode", remote, loop, told, state, max_batch=4, inflight=2, timeout_s=7.0)


async def turns(number=50):
    """So many turns of the loop: a time would be fewer on a busy machine."""
    for _ in range(number):
        await asyncio.sleep(0)


def job(deadline=math.inf):
    future = asyncio.get_running_loop().create_future()
    return Job(future, deadline, perf_counter(), Prepared(1, 1, Filter(), has_prompt=False))


async def test_one_goes_at_once_and_those_that_wait_go_together(queue, remote, told):
    remote.gate.clear()
    jobs = [job() for _ in range(9)]
    for one in jobs:
        queue.put(one)
    await asyncio.sleep(0)
    assert remote.requests == [1, 1] and len(queue) == 7
    remote.gate.set()
    await asyncio.gather(*(one.future for one in jobs))
    assert remote.requests == [1, 1, 4, 3] == told.batches
    assert [one.future.result() is one.prepared for one in jobs] == [True] * 9


async def test_from_another_thread(queue):
    one = job()
    await asyncio.to_thread(queue.put, one)
    assert await one.future is one.prepared


async def test_away_is_told_at_once_without_asking(queue, remote, state):
    state.up = False
    one = job()
    queue.put(one)
    with pytest.raises(UnavailableError):
        await one.future
    assert remote.requests == []


async def test_who_finds_it_gone_tells_everybody(queue, remote, state):
    remote.error = UnavailableError("ipv4:10.0.0.7 refused")
    one = job()
    queue.put(one)
    with pytest.raises(UnavailableError) as found:
        await one.future
    assert "10.0.0.7" not in str(found.value)
    assert not state.up and state.changed.is_set()


async def test_a_request_whose_callers_have_all_left_is_cancelled(queue, remote):
    remote.gate.clear()
    held = [job(), job()]
    for one in held:
        queue.put(one)
    together = [job(), job()]
    for one in together:
        queue.put(one)
    await asyncio.sleep(0)
    held[0].future.cancel()
    await turns()
    assert remote.cancelled == 1 and remote.requests == [1, 1, 2]
    together[0].future.cancel()
    await turns()
    assert remote.cancelled == 1
    remote.gate.set()
    assert await together[1].future is together[1].prepared


async def test_departed_and_expired_are_not_sent(queue, remote, told):
    remote.gate.clear()
    held = [job(), job()]
    late, gone = job(monotonic() + 0.01), job()
    for one in (*held, late, gone):
        queue.put(one)
    gone.future.cancel()
    await asyncio.sleep(0.03)
    remote.gate.set()
    with pytest.raises(DeadlineError):
        await late.future
    assert sorted(told.drops) == ["departed", "expired"]
    assert remote.requests == [1, 1]


async def test_the_request_has_the_callers_deadline(queue, remote):
    one, two = job(monotonic() + 2), job()
    queue.put(one)
    queue.put(two)
    await asyncio.gather(one.future, two.future)
    assert 1.5 < remote.timeouts[0] < 2.5 and remote.timeouts[1] == 7.0


async def test_an_engine_that_takes_too_long_is_not_the_callers_deadline(queue, remote):
    remote.error = DeadlineError("Triton did not answer")
    one = job()
    queue.put(one)
    with pytest.raises(UnavailableError):
        await one.future


async def test_full_is_overloaded(queue, remote, state):
    remote.error = OverloadedError("queue of 10.0.0.7 is full")
    one = job()
    queue.put(one)
    with pytest.raises(OverloadedError) as found:
        await one.future
    assert "10.0.0.7" not in str(found.value) and state.up


async def test_poison_fails_alone(queue, remote):
    remote.gate.clear()
    jobs = [job() for _ in range(6)]
    for one in jobs:
        queue.put(one)
    remote.poison = jobs[3].prepared
    remote.gate.set()
    outcomes = await asyncio.gather(*(one.future for one in jobs), return_exceptions=True)
    assert [isinstance(outcome, DefectError) for outcome in outcomes] == [
        False,
        False,
        False,
        True,
        False,
        False,
    ]


class Link:
    def __init__(self, engine):
        self.engine, self.bundle_id, self.problem = engine, "a", None
        self.directory, self.opened = Path("nowhere"), 0

    def open(self, directory):
        self.opened += 1
        if self.problem is not None:
            raise self.problem
        return self.engine

    async def served(self, timeout_s):
        return self.bundle_id, self.directory


@pytest.fixture
async def watched(remote, state):
    state.up = False
    turns, current = [], [remote]

    async def turn(up):
        turns.append(up)

    async def swap(engine):
        current[0] = engine

    config = SimpleNamespace(remote_timeout_s=1.0, remote_poll_s=0.01, remote_follow=True)
    link = Link(remote)
    watch = Watch(link, state, config, lambda: current[0], swap, turn=turn)
    return SimpleNamespace(watch=watch, link=link, turns=turns, current=current, state=state)


async def test_health_follows(watched, remote):
    await watched.watch.look()
    assert watched.turns == [True] and watched.state.up
    await watched.watch.look()
    assert watched.turns == [True] and remote.verified == 1
    remote.error = UnavailableError("gone")
    await watched.watch.look()
    assert watched.turns == [True, False]
    remote.error = None
    await watched.watch.look()
    # Whoever comes back is asked the golden queries again.
    assert watched.turns == [True, False, True] and remote.verified == 2


async def test_health_follows_when_a_query_was_first_to_know(watched, remote):
    await watched.watch.look()
    watched.state.lost()
    remote.error = UnavailableError("gone")
    await watched.watch.look()
    assert watched.turns == [True, False]


@pytest.mark.parametrize("how", ["unsound", "not ready", "defect"])
async def test_what_is_not_sound_is_not_served(watched, remote, how):
    remote.sound = how != "unsound"
    remote.ready = how != "not ready"
    remote.error = ZeroDivisionError("secret") if how == "defect" else None
    await watched.watch.look()
    assert watched.turns == [] and not watched.state.up


async def test_another_bundle_is_followed_once_it_is_sound(watched, remote):
    await watched.watch.look()
    watched.link.engine, watched.link.bundle_id = Engine("b"), "b"
    watched.link.engine.ready = False
    for _ in range(3):
        await watched.watch.look()
    assert watched.current == [remote] and watched.turns == [True]
    # It is read once, however long it takes to be ready.
    assert watched.link.opened == 1
    watched.link.engine.ready = True
    await watched.watch.look()
    await asyncio.sleep(0)
    assert watched.current[0].bundle.manifest.bundle_id == "b"


async def test_a_bundle_that_is_not_the_one_it_says_is_not_followed(watched, remote):
    watched.link.engine, watched.link.bundle_id = Engine("c"), "b"
    await watched.watch.look()
    assert watched.current == [remote] and watched.state.up


@pytest.mark.parametrize("changes", ["id", "manifest", "nothing, for a while"])
async def test_a_bundle_that_cannot_be_followed_is_read_again_when_something_changes(
    watched, remote, tmp_path, monkeypatch, changes
):
    now = [1000.0]
    monkeypatch.setattr(module, "monotonic", lambda: now[0])
    (tmp_path / "manifest.json").write_text("{}")
    await watched.watch.look()
    link = watched.link
    link.engine, link.bundle_id, link.directory = Engine("b"), "b", tmp_path
    link.engine.sound = False
    for _ in range(5):
        await watched.watch.look()
        now[0] += 1
    assert (link.opened, link.engine.verified) == (1, 1)
    assert watched.current == [remote] and watched.turns == [True]
    link.engine.sound = True
    if changes == "id":
        link.bundle_id = link.engine.bundle.manifest.bundle_id = "c"
    elif changes == "manifest":
        (tmp_path / "manifest.json").write_text("{ }")
    else:
        now[0] += 60
    await watched.watch.look()
    await asyncio.sleep(0)
    assert watched.current == [link.engine] and link.opened == 2


async def test_what_an_engine_raises_is_never_the_callers_fault(queue, remote):
    remote.error = InvalidArgumentError("query", "is wrong")
    one = job()
    queue.put(one)
    with pytest.raises(DefectError):
        await one.future
