"""Which bundles a server holds, through its admin service and real bundles; pinned callers across a compaction."""

import asyncio
import shutil
import threading
from dataclasses import replace

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from attributary.attribution.open import open_engine
from attributary.client import ServerError
from attributary.client.admin import Added, Addition, AdminClient
from attributary.delta.store import Store
from attributary.errors import (
    AlreadyExistsError,
    DeadlineError,
    InvalidArgumentError,
    NotFoundError,
    PreconditionError,
)
from attributary.gateway import bundles
from attributary.gateway.opened import Opened
from tests.unit.gateway.conftest import TOKEN, open_bundle


async def test_load_turn_and_unload(running, places, picture):
    _, client, admin = running
    first = (await client.describe()).bundle_id
    loaded = await admin(lambda one: one.load_bundle("two", alias="next", why="try it"))
    assert loaded.replaced == ""
    assert (await client.attribute(picture(5), bundle_id="next")).bundle_id == loaded.bundle_id
    assert (await client.attribute(picture(5))).bundle_id == first
    assert (await client.describe(bundle_id="next")).item_count == 299

    turned = await admin(lambda one: one.set_alias("default", "next", why="it is good"))
    assert (turned.bundle_id, turned.replaced) == (loaded.bundle_id, first)
    assert (await client.attribute(picture(5))).bundle_id == loaded.bundle_id
    told = await admin(lambda one: one.bundles())
    assert told.default_alias == "default"
    now, old = told.bundles
    assert (now.aliases, now.state, now.item_count) == (("default", "next"), "serving", 299)
    assert (old.bundle_id, old.aliases, old.state) == (first, (), "draining")
    assert 3500 < old.draining_s <= 3600
    assert now.changeable
    assert not old.changeable
    # At least its index and encoder; its vectors are mapped.
    assert now.memory_bytes > (places[1] / "index.faiss").stat().st_size
    assert now.mapped_bytes >= 299 * 209 * 2

    back = await admin(lambda one: one.set_alias("default", first, why="it is not"))
    assert (back.bundle_id, back.replaced) == (first, loaded.bundle_id)
    await admin(lambda one: one.unload_bundle("next", why="away", pinned_s=0))
    while len((await admin(lambda one: one.bundles())).bundles) > 1:
        await asyncio.sleep(0.01)
    with pytest.raises(NotFoundError):
        await client.describe(bundle_id=loaded.bundle_id)
    # Its writer's lock goes with it.
    assert (await admin(lambda one: one.load_bundle("two", why="again"))).bundle_id == loaded.bundle_id


async def test_the_memory_of_each_bundle_is_a_metric(running):
    """While it is there, under its id: an account of one of several bundles that a process holds."""
    gateway, _, admin = running
    await admin(lambda one: one.load_bundle("two", why="beside"))

    def published(bundle, kind):
        labels = {"bundle_id": bundle, "kind": kind}
        return gateway.metrics.registry.get_sample_value("attributary_bundle_memory_bytes", labels)

    told = (await admin(lambda one: one.bundles())).bundles
    assert len(told) == 2
    for bundle in told:
        assert published(bundle.bundle_id, "held") == bundle.memory_bytes > 0
        assert published(bundle.bundle_id, "mapped") == bundle.mapped_bytes > 0
    gone = await admin(lambda one: one.unload_bundle(told[1].bundle_id, why="away", pinned_s=0))
    while len((await admin(lambda one: one.bundles())).bundles) > 1:
        await asyncio.sleep(0.01)
    assert published(gone.replaced, "held") is None


async def test_what_cannot_be_loaded_changes_nothing(running, places, tmp_path):
    gateway, client, admin = running
    damaged = shutil.copytree(places[1], tmp_path / "bundles" / "damaged")
    (damaged / "vectors.npy").write_bytes(b"x")
    shutil.copytree(places[1], tmp_path / "outside")
    (tmp_path / "bundles" / "link").symlink_to(tmp_path / "outside")
    for path, error, words in (
        ("damaged", PreconditionError, "must not be served"),
        ("missing", InvalidArgumentError, "no directory"),
        ("x" * 300, InvalidArgumentError, "too long"),
        ("x/" * 5_000, InvalidArgumentError, "path"),
        ("", InvalidArgumentError, "path"),
        ("..", InvalidArgumentError, "not below the folder"),
        ("../outside", InvalidArgumentError, "not below the folder"),
        (str(tmp_path / "outside"), InvalidArgumentError, "not below the folder"),
        ("link", InvalidArgumentError, "not below the folder"),
    ):
        with pytest.raises(error, match=words):
            await admin(lambda one, path=path: one.load_bundle(path, alias="default", why="x"))
    for call, field in (
        (lambda one: one.load_bundle("two", alias="no alias", why="x"), "alias"),
        (lambda one: one.load_bundle("two", why=" "), "why"),
        (lambda one: one.load_bundle("two", why="x\ny"), "why"),
        (lambda one: one.set_alias("x", "default", why="\x1b[31m"), "why"),
        (lambda one: one.load_bundle("two", why="x", pinned_s=-1), "pinned_s"),
        (lambda one: one.load_bundle("two", why="x", pinned_s=float("nan")), "pinned_s"),
        (lambda one: one.set_alias("x", "", why="x"), "bundle"),
        (lambda one: one.unload_bundle("", why="x"), "bundle"),
    ):
        with pytest.raises(InvalidArgumentError) as caught:
            await admin(call)
        assert caught.value.field == field
    with pytest.raises(PreconditionError, match="is the default"):
        await admin(lambda one: one.unload_bundle("default", why="x"))
    with pytest.raises(NotFoundError):
        await admin(lambda one: one.set_alias("x", "nobody", why="x"))
    assert len(gateway.registry.bundles) == 1
    assert (await client.describe()).item_count == 300


async def test_a_caller_who_leaves_while_a_bundle_is_opened_leaves_no_lock(running, monkeypatch):
    gateway, _, admin = running
    inside, go = threading.Event(), threading.Event()

    def slowly(place):
        opened = open_bundle(place)
        inside.set()
        assert go.wait(30)
        return opened

    service = gateway.bundles
    monkeypatch.setattr(service, "_open_bundle", slowly)
    leaving = asyncio.create_task(admin(lambda one: one.load_bundle("two", why="x", timeout_s=0.5)))
    assert await asyncio.to_thread(inside.wait, 30)
    with pytest.raises(DeadlineError):
        await leaving
    go.set()
    monkeypatch.setattr(service, "_open_bundle", open_bundle)
    while True:
        # The lock goes with the thread, some time after the call.
        try:
            await admin(lambda one: one.load_bundle("two", alias="next", why="x"))
            break
        except PreconditionError as error:
            assert "one writer at a time" in str(error)
            await asyncio.sleep(0.01)


async def test_what_does_not_fit_into_memory_is_not_opened(running, monkeypatch):
    gateway, _, admin = running
    monkeypatch.setattr(bundles, "available", lambda: 1 << 10)
    with pytest.raises(PreconditionError, match=r"memory: the bundle needs about \d+ MiB, 0 MiB are left"):
        await admin(lambda one: one.load_bundle("two", why="x"))
    assert len(gateway.registry.bundles) == 1


def test_the_memory_that_is_left_is_known_here():
    assert bundles.available() > 1 << 20


async def test_changes_name_their_bundle(running, addition):
    _, client, admin = running
    loaded = await admin(lambda one: one.load_bundle("two", alias="next", why="x"))
    for name in ("next", loaded.bundle_id):
        await admin(lambda one, name=name: one.delete_items(ids=[1001, 1002], why="x", bundle=name))
    assert await admin(lambda one: one.add_item(addition(1), why="x", bundle="next")) == Added(1, 3)
    outcomes = await admin(lambda one: list(one.add_items([addition(2)], why="x", bundle="next")))
    assert outcomes == [Added(2, 4)]
    assert (await client.describe(bundle_id="next")).item_count == 299
    assert (await client.describe()).item_count == 300
    assert len(await admin(lambda one: one.changes(bundle="next"))) == 5
    assert await admin(lambda one: one.changes()) == []
    compacted = await admin(lambda one: one.compact(why="x", bundle="next"))
    assert (await client.describe(bundle_id="next")).bundle_id == compacted.bundle_id
    with pytest.raises(PreconditionError, match="name an alias"):
        await admin(lambda one: one.delete_items(ids=[1005], why="x", bundle=loaded.bundle_id))


async def test_pinned_callers_live_through_a_compaction_and_see_no_opt_out(running, addition, picture):
    _, client, admin = running
    old = (await client.describe()).bundle_id
    await admin(lambda one: one.add_item(addition(1), why="x"))
    stop, answers = asyncio.Event(), []

    async def pinned():
        while not stop.is_set():
            answers.append(await client.attribute(picture(5), top_k=100, bundle_id=old))

    asking = asyncio.create_task(pinned())
    compacted = await admin(lambda one: one.compact(why="monthly"))
    assert compacted.parent == old
    assert (await client.attribute(picture(5))).bundle_id == compacted.bundle_id
    stop.set()
    await asking
    assert {answer.bundle_id for answer in answers} == {old}
    # An opt-out holds everywhere once it is acknowledged.
    before = await client.attribute(picture(5), top_k=100, bundle_id=old)
    await admin(lambda one: one.delete_items(creator="Bo", why="opted out"))
    after = await client.attribute(picture(5), top_k=100, bundle_id=old)
    assert "Bo" in {item.creator for item in before.items}
    assert "Bo" not in {item.creator for item in after.items} | {one.creator for one in after.creators}
    with pytest.raises(NotFoundError):
        await client.get_item(1001, bundle_id=old)
    # A second compaction forgets the names of what is deleted; the first bundle, which still drains, must not.
    await admin(lambda one: one.delete_items(creator="Cy", why="opted out"))
    await admin(lambda one: one.compact(why="monthly"))
    last = await client.attribute(picture(5), top_k=100, bundle_id=old)
    assert not {"Bo", "Cy"} & {item.creator for item in last.items}
    assert last.bundle_id == old


async def test_a_bundle_that_is_loaded_again_while_it_drains_stays(running):
    _, client, admin = running
    loaded = await admin(lambda one: one.load_bundle("two", alias="next", why="x"))
    await admin(lambda one: one.unload_bundle("next", why="x"))
    assert (await admin(lambda one: one.load_bundle("two", why="x"))).bundle_id == loaded.bundle_id
    [_, again] = (await admin(lambda one: one.bundles())).bundles
    assert (again.bundle_id, again.state, again.changeable) == (loaded.bundle_id, "serving", True)
    await admin(lambda one: one.delete_items(ids=[1001], why="x", bundle=loaded.bundle_id))
    assert (await client.describe(bundle_id=loaded.bundle_id)).item_count == 298


async def test_a_deletion_tells_names_that_stay(running, addition):
    _, _, admin = running
    await admin(lambda one: one.add_item(replace(addition(1), creator="BO"), why="x"))
    assert (await admin(lambda one: one.delete_items(creator="Bo", why="opted out"))).similar == ("BO",)
    assert (await admin(lambda one: one.delete_items(creator="BO", why="opted out"))).similar == ()


async def test_an_addition_whose_reply_was_lost_may_be_repeated(running, addition):
    _, client, admin = running
    first = await admin(lambda one: one.add_item(addition(1), why="x"))
    await admin(lambda one: one.add_item(addition(2), why="x"))
    assert await admin(lambda one: one.add_item(addition(1), why="again")) == first
    assert await admin(lambda one: list(one.add_items([addition(1)], why="again"))) == [first]
    for differs in (addition(1, creator="Zoe"), addition(1, number=9), addition(1001)):
        with pytest.raises(AlreadyExistsError) as caught:
            await admin(lambda one, differs=differs: one.add_item(differs, why="x"))
        assert (caught.value.kind, caught.value.name) == ("item", str(differs.id))
        outcome = (await admin(lambda one, differs=differs: list(one.add_items([differs], why="x"))))[0]
        assert (type(outcome), str(outcome)) == (AlreadyExistsError, str(caught.value))
    with pytest.raises(InvalidArgumentError, match=r"item\.image"):
        await admin(lambda one: one.add_item(Addition(3, b"no picture", "c", "Eve"), why="x"))
    assert (await client.describe()).added_count == 2


async def test_a_server_that_does_not_write_loads_and_turns_and_refuses_changes(serve, places, tmp_path):
    (tmp_path / "admins").write_text(f"kim {TOKEN}\n")
    # Another process has the writer's lock.
    with Store(places[0], open_engine), Store(places[1], open_engine):
        gateway, client = await serve(
            open_engine(places[0]),
            more={"open_bundle": lambda place: Opened(open_engine(place))},
            admin_tokens_file=tmp_path / "admins",
        )

        def ask():
            with AdminClient(f"127.0.0.1:{gateway.port}", token=TOKEN) as admin:
                loaded = admin.load_bundle("two", alias="default", why="x")
                with pytest.raises(PreconditionError, match="ask the one that writes"):
                    admin.delete_items(ids=[1001], why="x")
                assert not admin.bundles().bundles[0].changeable
                return loaded.bundle_id

        loaded = await asyncio.to_thread(ask)
        assert (await client.describe()).bundle_id == loaded


async def test_health_of_every_service(running, serve, engine):
    gateway, _, _ = running
    queries, admins = "attributary.v1.AttributionService", "attributary.v1.AdminService"
    others = ["grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"]
    for name in ("", queries, admins, *others):
        assert await _health(gateway, name) == health_pb2.HealthCheckResponse.SERVING
    without, _ = await serve(engine)
    with pytest.raises(grpc.aio.AioRpcError, match="NOT_FOUND"):
        await _health(without, admins)


async def _health(gateway, name):
    async with grpc.aio.insecure_channel(f"127.0.0.1:{gateway.port}") as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        return (await stub.Check(health_pb2.HealthCheckRequest(service=name))).status


async def test_without_a_way_to_open_bundles_none_is_loaded(serve, engine, tmp_path):
    (tmp_path / "admins").write_text(f"kim {TOKEN}\n")
    (tmp_path / "x").mkdir()
    gateway, _ = await serve(engine, admin_tokens_file=tmp_path / "admins", bundle_root=tmp_path)

    def ask():
        with (
            AdminClient(f"127.0.0.1:{gateway.port}", token=TOKEN) as admin,
            pytest.raises(PreconditionError, match="without a way"),
        ):
            admin.load_bundle("x", why="x")
        with (
            AdminClient(f"127.0.0.1:{gateway.port}", token="wrong") as admin,
            pytest.raises(ServerError, match="UNAUTHENTICATED"),
        ):
            admin.bundles()

    await asyncio.to_thread(ask)
