"""Who waits for whose threads: an opt-out for nobody's work, a caller for no other's pages and bodies."""

import asyncio
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial

import pytest

from attributary.attribution.open import open_engine
from attributary.client.admin import AsyncAdminClient
from attributary.delta.selection import Selection
from attributary.delta.store import Store
from attributary.errors import DeletedError, OverloadedError
from attributary.gateway import listing
from attributary.gateway.http import bodies, replies
from tests.support.http_calls import JSON, fetch, form

TOKEN = "s3cret"


@pytest.fixture
def bundle_dir(tiny_bundle_dir, tmp_path):
    return shutil.copytree(tiny_bundle_dir, tmp_path / "bundle")


@asynccontextmanager
async def busy():
    """Every thread that the event loop lends to whoever asks has something to do."""
    loop, gate = asyncio.get_running_loop(), threading.Event()
    held = [loop.run_in_executor(None, gate.wait) for _ in range(100)]
    try:
        yield
    finally:
        gate.set()
        await asyncio.gather(*held)


@pytest.fixture
async def writing(serve, bundle_dir, tmp_path):
    """(gateway, client, admin client) of a server that changes its bundle."""
    (tmp_path / "admins").write_text(f"kim {TOKEN}\n")
    store = Store(bundle_dir, open_engine)
    gateway, client = await serve(store.engine, store, admin_tokens_file=tmp_path / "admins", permits=64)
    async with AsyncAdminClient(f"127.0.0.1:{gateway.port}", token=TOKEN) as admin:
        yield gateway, client, admin


async def test_an_opt_out_waits_for_no_work_of_others(writing):
    _, client, admin = writing
    async with busy():
        assert (await admin.delete_items(ids=[1000], why="opted out")).count == 1
        assert [change.kind for change in await admin.changes()] == ["delete"]
        assert (await admin.held())[0] == []
        with pytest.raises(DeletedError):
            await client.get_item(1000)
        assert len((await client.list_items(search="red")).entries) > 0
        assert len((await client.list_creators()).entries) == 4


async def test_an_opt_out_waits_for_no_addition(writing, addition, monkeypatch):
    _, _, admin = writing
    gate, add = threading.Event(), Store.add

    def slow(self, *given, **more):
        assert gate.wait(120)
        return add(self, *given, **more)

    monkeypatch.setattr(Store, "add", slow)
    adding = [asyncio.create_task(admin.add_item(addition(number), why="x")) for number in range(1, 30)]
    try:
        assert (await admin.delete_items(ids=[1000], why="opted out")).count == 1
    finally:
        gate.set()
    assert {added.id for added in await asyncio.gather(*adding)} == set(range(1, 30))


async def test_one_contributor_s_additions_refuse_and_delay_nobody_else(
    writing, addition, monkeypatch, tmp_path, picture
):
    gateway, client, admin = writing
    (tmp_path / "admins").write_text(f"kim {TOKEN}\nzoe second roles=contribute\n")
    gateway._gate._admins.refresh()
    gate, add = threading.Event(), Store.add

    def slow(self, items, *, who, **more):
        assert who == "kim" or gate.wait(120)
        return add(self, items, who=who, **more)

    monkeypatch.setattr(Store, "add", slow)
    async with AsyncAdminClient(f"127.0.0.1:{gateway.port}", token="second") as contributor:
        adding = [
            asyncio.create_task(contributor.add_item(addition(number), why="x")) for number in range(1, 100)
        ]
        try:
            async with asyncio.timeout(60):
                while gateway.admission.in_use < 56:
                    await asyncio.sleep(0.01)
            assert (await client.attribute(picture(3))).bundle_id
            assert (await admin.add_item(addition(100), why="x")).id == 100
            assert gateway.admission.in_use == 56
        finally:
            gate.set()
        outcomes = await asyncio.gather(*adding, return_exceptions=True)
    assert sum(isinstance(outcome, OverloadedError) for outcome in outcomes) == 99 - 56


async def test_a_follower_waits_for_no_work_of_others(serve, bundle_dir):
    _, client = await serve(open_engine(bundle_dir), more={"open_bundle": open_engine}, follow_poll_s=0.05)
    with Store(bundle_dir) as store:
        async with busy():
            store.delete(Selection(creator="Bo"), who="kim", why="opted out")
            async with asyncio.timeout(120):
                while (await client.describe()).revision < 1:
                    await asyncio.sleep(0.01)


class Held:
    """Work that waits until it is let go; `begun` counts it."""

    def __init__(self, work, begun):
        self.gate, self.begun, self._work = threading.Event(), begun, work
        self.given_up = False

    def __call__(self, *given):
        self.begun.release()
        self.given_up |= not self.gate.wait(120)
        return self._work(*given)


async def test_one_caller_s_pages_and_bodies_keep_no_other_waiting(serve, bundle_dir, tmp_path, monkeypatch):
    (tmp_path / "tokens").write_text("ada one\nbob two\n")
    gateway, _ = await serve(
        open_engine(bundle_dir), tokens_file=tmp_path / "tokens", prepare_threads=2, http_port=0, permits=64
    )
    begun = threading.Semaphore(0)
    pages, parsed = Held(listing.items, begun), Held(bodies._parsed, begun)
    monkeypatch.setattr(listing, "items", pages)
    monkeypatch.setattr(bodies, "_parsed", parsed)
    large = '{"query": {"embedding": {"values": [' + ",".join(["0.5"] * 3_000) + "]}}}"

    def ask(token, method, path, body=None):
        return fetch(gateway.http_port, method, path, body, {**JSON, "authorization": f"Bearer {token}"})[0]

    threads = [
        threading.Thread(target=ask, args=given)
        for given in [("one", "GET", "/v1/items")] * 8 + [("one", "POST", "/v1/attribute", large)] * 8
    ]
    for thread in threads:
        thread.start()
    try:
        for _ in range(2):
            assert await asyncio.to_thread(begun.acquire, timeout=60)
        assert await asyncio.to_thread(ask, "two", "GET", "/v1/creators") == 200
        assert await asyncio.to_thread(ask, "two", "GET", "/v1/bundle") == 200
        assert not pages.given_up and not parsed.given_up
    finally:
        pages.gate.set()
        parsed.gate.set()
        for thread in threads:
            await asyncio.to_thread(thread.join, 60)
    assert await asyncio.to_thread(ask, "two", "POST", "/v1/attribute", large) == 400


@pytest.mark.parametrize("kind", ["application/pdf", "application/vnd.apache.parquet", "application/json"])
async def test_what_is_written_of_an_answer_is_its_caller_s_work(
    serve, bundle_dir, picture, monkeypatch, kind
):
    monkeypatch.setattr(replies, "_AT_ONCE_BYTES", 10)
    gateway, _ = await serve(open_engine(bundle_dir), http_port=0)
    path_of = []
    pool = gateway.registry.current._pool
    submit = pool.submit
    monkeypatch.setattr(pool, "submit", lambda path, work: (path_of.append(path), submit(path, work))[1])
    body, headers = form(image=picture(3))
    ask = partial(fetch, gateway.http_port, "POST", "/v1/attribute", body, {**headers, "accept": kind})
    with ThreadPoolExecutor(1) as own:
        async with busy():
            status, got, _ = await asyncio.get_running_loop().run_in_executor(own, ask)
    assert (status, got["content-type"]) == (200, kind)
    # Reading the picture, writing the reply: for one caller, who has a name.
    assert len(path_of) == 2 and path_of[0] == path_of[1] and path_of[0][1]
