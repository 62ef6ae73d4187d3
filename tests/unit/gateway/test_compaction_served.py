"""Compactions of a served bundle: under load, in a drain, and where the event loop does not take the new one."""

import asyncio
import concurrent.futures

import numpy as np
import pytest

from attributary.attribution.open import open_engine
from attributary.client.admin import Added, AdminClient
from attributary.delta.store import Store
from attributary.errors import DeletedError, PreconditionError, UnavailableError
from attributary.gateway import admin as admin_module

TOKEN = "s3cret"


async def test_a_flip_that_the_event_loop_does_not_take_is_told_with_its_reason(
    serve, bundle_dir, tokens, addition, monkeypatch
):
    store = Store(bundle_dir, open_engine)
    gateway, _ = await serve(store.engine, store=store, admin_tokens_file=tokens)

    class Never(concurrent.futures.Future):
        pass

    def lost(turn, loop):
        turn.close()
        return Never()

    monkeypatch.setattr(admin_module, "_FLIP_S", 0.01)
    monkeypatch.setattr(admin_module.asyncio, "run_coroutine_threadsafe", lost)

    def change():
        with AdminClient(f"127.0.0.1:{gateway.port}", token=TOKEN) as admin:
            list(admin.add_items([addition(1)], why="x"))
            with pytest.raises(PreconditionError, match=r"no turn of the event loop in 0\.01 s"):
                admin.compact(why="x")

    await asyncio.to_thread(change)
    monkeypatch.undo()


async def test_a_swap_under_load_fails_no_request(serve, bundle_dir, tokens, addition, picture):
    store = Store(bundle_dir, open_engine)
    first = store.bundle_id
    gateway, client = await serve(store.engine, store=store, admin_tokens_file=tokens, permits=64)
    stop, answers = asyncio.Event(), []

    async def ask(number):
        while not stop.is_set():
            answers.append(await client.attribute(picture(number), top_k=3))
            number = (number + 7) % 300

    async def stream():
        from attributary.client import query

        async def queries():
            while not stop.is_set():
                yield query(embedding=np.ones(209, np.float32))

        async for result in client.attribute_stream(queries()):
            assert not isinstance(result, Exception)
            answers.append(result)

    asking = [asyncio.create_task(ask(number)) for number in range(4)] + [asyncio.create_task(stream())]

    def change():
        swaps = []
        with AdminClient(f"127.0.0.1:{gateway.port}", token=TOKEN) as admin:
            for turn in range(3):
                outcomes = list(
                    admin.add_items(
                        [addition(one, 200 + one) for one in range(10 * turn, 10 * turn + 3)], why="x"
                    )
                )
                assert all(isinstance(outcome, Added) for outcome in outcomes)
                assert admin.delete_items(ids=[1000 + turn, 10 * turn], why="x").count == 2
                swaps.append(admin.compact(why="x"))
        return swaps

    swaps = await asyncio.to_thread(change)
    stop.set()
    await asyncio.gather(*asking)
    assert [swap.parent for swap in swaps] == [first, *(swap.bundle_id for swap in swaps[:-1])]
    assert {answer.bundle_id for answer in answers} == {first, *(swap.bundle_id for swap in swaps)}
    assert (await client.describe()).item_count == 303
    with pytest.raises(DeletedError):
        await client.get_item(1002)
    assert (await client.get_item(21)).creator == "Eve"


async def test_a_drain_gives_a_compaction_up_and_keeps_what_was_acknowledged(
    serve, bundle_dir, tokens, addition, monkeypatch
):
    from attributary.delta import store as module

    store = Store(bundle_dir, open_engine)
    gateway, _ = await serve(store.engine, store=store, admin_tokens_file=tokens)
    inside, build = asyncio.Event(), module.compacted
    loop = asyncio.get_running_loop()

    def slowly(snapshot, encoder, out, opened, check, *_):
        loop.call_soon_threadsafe(inside.set)
        while True:
            check()

    monkeypatch.setattr(module, "compacted", slowly)

    def change():
        with AdminClient(f"127.0.0.1:{gateway.port}", token=TOKEN) as admin:
            list(admin.add_items([addition(1)], why="x"))
            with pytest.raises(UnavailableError):
                admin.compact(why="x")

    changing = asyncio.create_task(asyncio.to_thread(change))
    async with asyncio.timeout(60):
        await inside.wait()
    await gateway.drain()
    await changing
    monkeypatch.setattr(module, "compacted", build)
    with Store(bundle_dir, open_engine) as again:
        assert again.snapshot.item_count == 301
        assert again.compact(who="kim", why="x").added == 1
