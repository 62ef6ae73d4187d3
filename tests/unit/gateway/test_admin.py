"""The admin service in process, over a real socket and a real bundle: who may, what it does, who sees it when."""

import asyncio
import time
from dataclasses import replace
from types import SimpleNamespace

import grpc
import pytest

from attributary.attribution.open import open_engine
from attributary.bundle.items import ItemRecord
from attributary.client import AsyncClient, ServerError
from attributary.client.admin import Added, Addition, AdminClient, AsyncAdminClient
from attributary.delta.store import Store
from attributary.errors import (
    AlreadyExistsError,
    AttributaryError,
    DeletedError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    PreconditionError,
)
from attributary.gateway import admin as admin_module
from attributary.gateway import calls
from attributary.gateway.tokens import ADMIN_ROLES, read_owners
from attributary.v1 import admin_pb2 as pb
from attributary.v1 import admin_pb2_grpc as rpc
from tests.conftest import server_process

TOKEN = "s3cret"


@pytest.fixture
def running(bundle_dir, tokens):
    """A server process with the admin service on."""
    with server_process(bundle_dir, config={"admin_tokens_file": str(tokens)}) as server:
        yield server


@pytest.fixture
def admin(running):
    with AdminClient(running.address, token=TOKEN) as client:
        yield client


async def test_the_asynchronous_client_changes_what_the_other_does(running, addition, picture):
    async def later():
        yield addition(1)
        yield addition(1000)

    async with AsyncAdminClient(running.address, token=TOKEN) as admin:
        added, refused = [outcome async for outcome in admin.add_items(later(), why="more")]
        assert (added.id, type(refused)) == (1, AlreadyExistsError)
        assert (await admin.add_item(addition(2, 4), why="one more")).revision == added.revision + 1
        assert (await admin.delete_items(ids=[2, 77], why="by hand")).unknown == (77,)
        with pytest.raises(InvalidArgumentError, match="selection"):
            await admin.delete_items(why="nothing named")
        assert [change.kind for change in await admin.changes()] == ["add", "add", "delete"]
        assert [change.kind for change in await admin.changes(after=2)] == ["delete"]
        assert (await admin.bundles()).bundles[0].item_count == 301


def test_what_is_added_and_deleted_is_seen_by_the_next_query(running, admin, addition, picture):
    with running.client() as client:
        before = client.attribute(picture(3), prompt="a orange rectangle")
        assert before.items[0].id == 1003
        added = list(
            admin.add_items([addition(1), addition(2, 4, licence="CC-BY-4.0", uri="new/2")], why="more")
        )
        assert [outcome.id for outcome in added] == [1, 2]
        answer = client.attribute(picture(3), prompt="a orange rectangle")
        assert {item.id for item in answer.items[:2]} == {1, 1003}
        assert client.get_item(2).licence == "CC-BY-4.0"
        told = client.describe()
        assert (told.item_count, told.creator_count, told.added_count, told.deleted_count) == (302, 5, 2, 0)

        assert admin.delete_items(creator="Dee", why="she opted out").count == 75
        assert admin.delete_items(ids=[1, 1003, 9], why="by hand").unknown == (9,)
        answer = client.attribute(picture(3), prompt="a orange rectangle", top_k=200)
        assert "Dee" not in {total.creator for total in answer.creators}
        assert not {1, 1003} & {item.id for item in answer.items}
        with pytest.raises(DeletedError) as caught:
            client.get_item(1003)
        assert caught.value.name == "1003"
        assert caught.value.at.startswith("20")
        with pytest.raises(NotFoundError) as unknown:
            client.get_item(9)
        assert type(unknown.value) is NotFoundError
        assert client.describe().item_count == 226
    changes = admin.changes()
    # The first item went alone, or both together.
    additions = [change for change in changes if change.kind == "add"]
    assert sum((change.ids for change in additions), ()) == (1, 2)
    assert {(change.who, change.why) for change in additions} == {("kim", "more")}
    assert [
        (change.who, change.why, change.what, change.item_count) for change in changes[len(additions) :]
    ] == [("kim", "she opted out", "creator=Dee", 75), ("kim", "by hand", "", 1)]
    assert admin.changes(after=changes[0].revision) == changes[1:]


def test_a_restart_remembers(running, admin, addition, bundle_dir, picture):
    list(admin.add_items([addition(1)], why="more"))
    admin.delete_items(source="file:pictures/1", why="opted out")
    running.process.kill()
    running.process.wait()
    engine = open_engine(bundle_dir)
    assert engine.snapshot.revision == 2
    assert engine.snapshot.row_of(1) == 300
    with pytest.raises(DeletedError):
        engine.snapshot.row_of(1010)


def test_each_item_has_its_own_result(admin, addition):
    items = [
        addition(1),
        addition(1005),
        Addition(2, b"no picture", "c", "Eve"),
        addition(3, creator=""),
        addition(4),
    ]
    outcomes = list(admin.add_items(items, why="more"))
    assert [isinstance(outcome, Added) for outcome in outcomes] == [True, False, False, False, True]
    assert isinstance(outcomes[1], AlreadyExistsError)
    assert [outcome.field for outcome in outcomes[2:4]] == ["item.image", "item.creator"]
    nobody = list(admin.add_items([addition(9)], why=""))
    assert nobody[0].field == "why"


def test_many_items_over_one_stream(admin, addition):
    outcomes = list(
        admin.add_items((addition(item_id, item_id % 300) for item_id in range(100, 200)), why="many")
    )
    assert [outcome.id for outcome in outcomes] == list(range(100, 200))
    revisions = [outcome.revision for outcome in outcomes]
    assert revisions == sorted(revisions)
    # Together where they waited together: never more than a batch of pictures, never out of order.
    assert max(revisions.count(revision) for revision in revisions) <= 8
    assert sum(change.item_count for change in admin.changes()) == 100


def test_wrong_deletions_name_the_field(running):
    wrong = {
        "selection": ({}, {"creator": ""}, {"ids": pb.Ids()}, {"source": "file:"}),
        "why": ({"creator": "Ann", "why": ""},),
    }
    with grpc.insecure_channel(running.address) as channel:
        stub = rpc.AdminServiceStub(channel)
        for field, requests in wrong.items():
            for given in requests:
                request = pb.DeleteItemsRequest(**{"why": "x", **given})
                with pytest.raises(grpc.RpcError) as caught:
                    stub.DeleteItems(request, metadata=(("authorization", f"Bearer {TOKEN}"),))
                assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
                assert caught.value.details().startswith(field)


def test_a_stream_ends_at_what_cannot_be_read(running, addition):
    ends = {
        "request_serializer": None,
        "response_deserializer": pb.AddItemsResponse.FromString,
    }
    item = pb.NewItem(id=1, image=addition(1).picture, caption="c", creator="Eve")
    good = pb.AddItemsRequest(request_id="a", item=item, why="x").SerializeToString()
    too_long = pb.AddItemsRequest(request_id="x" * 200, item=item, why="x").SerializeToString()
    no_id = pb.AddItemsRequest(request_id="b", item=pb.NewItem(caption="c"), why="x").SerializeToString()
    with grpc.insecure_channel(running.address) as channel:
        call = channel.stream_stream("/attributary.v1.AdminService/AddItems", **ends)(
            iter([good, too_long, no_id, b"\xff\xff"]), metadata=(("authorization", f"Bearer {TOKEN}"),)
        )
        results = []
        with pytest.raises(grpc.RpcError) as caught:
            for response in call:
                results.append(response)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert [(result.request_id, result.error.field) for result in results] == [
        ("a", ""), ("", "request_id"), ("b", "item.id"),
    ]  # fmt: skip
    assert results[0].added.id == 1


async def test_tokens_open_one_door_each(serve, bundle_dir, tokens, tmp_path, picture):
    (tmp_path / "queries").write_text("q\n")
    with pytest.raises(ServerError, match="UNIMPLEMENTED"):
        gateway, _ = await serve(open_engine(bundle_dir))
        await asyncio.to_thread(_compact, gateway.port, TOKEN)
    store = Store(bundle_dir, open_engine)
    gateway, _ = await serve(
        store.engine, store=store, admin_tokens_file=tokens, tokens_file=tmp_path / "queries"
    )
    for token in ("q", "wrong", ""):
        with pytest.raises(ServerError, match="UNAUTHENTICATED"):
            await asyncio.to_thread(_compact, gateway.port, token)
    assert (await asyncio.to_thread(_compact, gateway.port, TOKEN)).parent == ""
    for token, opens in (("q", True), (TOKEN, False)):
        async with AsyncClient(f"127.0.0.1:{gateway.port}", token=token, retry=False) as client:
            if opens:
                assert (await client.attribute(picture(0))).items
            else:
                with pytest.raises(ServerError, match="UNAUTHENTICATED"):
                    await client.attribute(picture(0))


def _compact(port, token):
    with AdminClient(f"127.0.0.1:{port}", token=token) as client:
        return client.compact(why="x")


@pytest.mark.parametrize("text", ["", "# nobody\n", "kim\n", "kim s3cret extra\n"])
def test_wrong_token_files_are_refused(tmp_path, text):
    (tmp_path / "admins").write_text(text)
    with pytest.raises(InvalidArgumentError, match="admin_tokens_file"):
        read_owners(tmp_path / "admins", "admin_tokens_file", ADMIN_ROLES)


async def test_an_engine_elsewhere_says_what_to_do(serve, engine, tokens):
    gateway, _ = await serve(engine, admin_tokens_file=tokens)

    def ask():
        with AdminClient(f"127.0.0.1:{gateway.port}", token=TOKEN) as client:
            for call in (
                lambda: client.compact(why="x"),
                lambda: client.delete_items(creator="Ann", why="x"),
                lambda: client.changes(),
                lambda: list(client.add_items([Addition(1, b"", "c", "e")], why="x")),
            ):
                with pytest.raises(
                    PreconditionError, match="live changes need the embedded engine"
                ) as caught:
                    call()
                assert caught.value.subject == "engine"

    await asyncio.to_thread(ask)


async def test_a_stream_of_additions_has_its_line_in_the_log(serve, engine, tokens, monkeypatch):
    gateway, _ = await serve(engine, admin_tokens_file=tokens, log_level="debug")
    lines = []
    log = SimpleNamespace(
        debug=lambda event, **said: lines.append((event, said)), warning=lambda *_, **__: None
    )
    monkeypatch.setattr(calls, "log", log)

    def ask():
        with (
            AdminClient(f"127.0.0.1:{gateway.port}", token=TOKEN) as client,
            pytest.raises(PreconditionError),
        ):
            list(client.add_items([Addition(1, b"", "c", "e")], why="x"))

    await asyncio.to_thread(ask)
    assert [(event, said["method"], said["code"]) for event, said in lines] == [
        ("request", "AddItems", "FAILED_PRECONDITION")
    ]


async def test_pages_of_what_waits_leave_nothing_out():
    """Items of one message have one time, and clocks are set back."""
    times = [f"2026-01-01T00:00:{second:02d}Z" for second in (1, 2, 2, 2, 2, 0, 3)]
    items = [ItemRecord(number, "c", "Ada", "", "", "", number) for number in range(len(times))]
    waits = [
        SimpleNamespace(items=(item,), at=at, who="kim", why="x", held="new", like=None)
        for item, at in zip(items, times, strict=True)
    ]

    async def deleted(told):
        return told()

    changes = SimpleNamespace(store=lambda _bundle: SimpleNamespace(held=waits), deleted=deleted)
    service = admin_module.AdminService(changes, None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(admin_module, "MAX_IDS_LISTED", 3)
        found, after, more = [], "", True
        while more:
            reply = await service.list_held(pb.ListHeldRequest(after=after), None)
            found += [item.id for item in reply.items]
            after, more = reply.items[-1].at, reply.more
    assert sorted(found) == list(range(len(times)))


def test_a_deleted_items_picture_comes_back_on_purpose_alone(running, admin, addition, tokens):
    first, again = addition(9001, 150), replace(addition(9002, 150), caption="a blue star", creator="Bo")
    admin.add_item(first, why="new")
    admin.delete_items(ids=[9001], why="opted out")
    with pytest.raises(PreconditionError, match=r"item 9001, which was deleted at .* bring_back") as caught:
        admin.add_item(again, why="again")
    assert caught.value.subject == "item.image"
    (streamed,) = admin.add_items([again], why="again")
    assert isinstance(streamed, PreconditionError) and streamed.subject == "item.image"
    with tokens.open("a") as file:
        file.write("rival words roles=contribute\n")
    with AdminClient(running.address, token="words") as rival:
        _wait_until(lambda: isinstance(_tried(rival, again), PermissionDeniedError))
        (denied,) = rival.add_items([again], why="again", bring_back=True)
        assert isinstance(denied, PermissionDeniedError) and denied.role == "admin"
        assert rival.add_item(again, why="again").held == "looks like item 9001, which was deleted"
    with pytest.raises(PreconditionError, match="item 9001, which was deleted"):
        admin.decide_held([9002], enter=True, why="hers")
    admin.decide_held([9002], enter=True, why="hers", bring_back=True)
    third = replace(again, id=9003)
    assert [type(one) for one in admin.add_items([third], why="again", bring_back=True)] == [Added]
    assert [change.what for change in admin.changes()][-2:] == ["bring_back=9002", "bring_back=9003"]
    assert admin.delete_items(ids=[9003], why="again", dry_run=True).duplicates == (1150, 9002)


def _tried(client, item):
    try:
        return client.add_item(item, why="again", bring_back=True)
    except AttributaryError as error:
        return error


def _wait_until(there):
    for _ in range(200):
        if there():
            return
        time.sleep(0.05)
    raise AssertionError("it does not come")
