"""No request fails while bundles are swapped under load: 100,000 requests and 20 swaps with `-m slow`, less without."""

import asyncio
import shutil
import time

import numpy as np
import pytest

from attributary.attribution.open import open_engine
from attributary.client import AsyncClient, query
from attributary.client.admin import AdminClient
from attributary.delta.selection import Selection
from attributary.delta.store import Store
from attributary.gateway.config import GatewayConfig
from attributary.gateway.opened import Opened
from attributary.gateway.server import Gateway

TOKEN = "s3cret"


@pytest.fixture
def places(tiny_bundle_dir, tmp_path):
    """Two bundles of other ids."""
    for name, item in (("one", 1000), ("two", 1001)):
        place = shutil.copytree(tiny_bundle_dir, tmp_path / "bundles" / name)
        with Store(place, open_engine) as store:
            store.delete(Selection(ids=(item,)), who="kim", why="x")
            store.compact(who="kim", why="x")
    return tmp_path / "bundles"


async def test_some_requests_across_some_swaps(places, tmp_path, tally):
    await swap_under_load(places, tmp_path, tally, requests=1_500, swaps=4)


@pytest.mark.slow
@pytest.mark.timeout(3600)
async def test_100000_requests_across_20_swaps(places, tmp_path, tally):
    await swap_under_load(places, tmp_path, tally, requests=100_000, swaps=20)


async def swap_under_load(places, tmp_path, tally, requests, swaps):
    """Ask by alias, by the id of the last answer, in batches and in streams, while LoadBundle turns the alias."""
    (tmp_path / "admins").write_text(f"kim {TOKEN}\n")
    config = GatewayConfig(
        port=0,
        metrics_port=-1,
        admin_tokens_file=tmp_path / "admins",
        permits=256,
        pinned_s=300.0,  # twenty swaps on a busy machine
        max_wait_s=60.0,  # overload is another test's: here a refusal is a failure
        log_level="error",
    )
    gateway = Gateway(
        open_engine(places / "one"), config, open_bundle=lambda place: Opened(open_engine(place))
    )
    await gateway.start()
    address = f"127.0.0.1:{gateway.port}"
    vectors = np.random.default_rng(1).standard_normal((64, 209)).astype(np.float32)
    answered, failures, turned = {}, [], []
    started = time.perf_counter()

    def enough():
        return len(turned) == swaps and sum(answered.values()) >= requests

    def note(outcome):
        if isinstance(outcome, Exception):
            failures.append(repr(outcome))
        else:
            answered[outcome.bundle_id] = answered.get(outcome.bundle_id, 0) + 1
        return outcome

    async def caller(client, number, pin):
        name = ""
        while not enough():
            number += 1
            answer = await client.attribute(embedding=vectors[number % 64], top_k=3, bundle_id=name)
            # Pinned to what answered last; every now and then to what is served now.
            assert not (pin and name) or answer.bundle_id == name
            name = note(answer).bundle_id if pin and number % 50 else ""

    async def batches(client):
        while not enough():
            for outcome in await client.attribute_batch(
                [query(embedding=vector) for vector in vectors[:8]], top_k=3
            ):
                note(outcome)

    async def streams(client):
        async def queries():
            number = 0
            while not enough():
                number += 1
                yield query(embedding=vectors[number % 64])

        async for outcome in client.attribute_stream(queries(), top_k=3):
            note(outcome)

    def turn(name):
        with AdminClient(address, token=TOKEN) as admin:
            return admin.load_bundle(name, alias="default", why="the next one").bundle_id

    async def turns():
        for number in range(swaps):
            share = requests * (number + 1) // (swaps + 2)
            while sum(answered.values()) < share:
                await asyncio.sleep(0.01)
            turned.append(await asyncio.to_thread(turn, ("two", "one")[number % 2]))

    # No retries: a refusal would show.
    async with AsyncClient(address, retry=False, timeout_s=120) as client:
        await asyncio.gather(
            turns(),
            *(caller(client, number, pin) for number in range(3) for pin in (False, True)),
            batches(client),
            streams(client),
            streams(client),
        )
    await gateway.drain(1)
    counts = {
        "requests": sum(answered.values()),
        "swaps": len(turned),
        "failed": len(failures),
        "by bundle": answered,
    }
    answers = sum(answered.values())
    tally("swaps", sent=answers + len(failures), admitted=answers + len(failures), failed=len(failures))
    print(counts, f"{time.perf_counter() - started:.0f} s")
    assert failures == []
    assert sum(answered.values()) >= requests
    assert len(turned) == swaps
    assert set(answered) == set(turned)
