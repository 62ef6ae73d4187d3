"""An opt-out holds when aliases turn back, copies are loaded, and callers are pinned to what was replaced."""

import asyncio
import shutil
import threading

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from attributary.attribution.open import open_engine
from attributary.building import build_bundle
from attributary.client.admin import AdminClient
from attributary.delta.items import NewItem
from attributary.delta.selection import Selection
from attributary.delta.store import Store
from attributary.errors import (
    NotFoundError,
    PreconditionError,
)
from attributary.gateway.opened import Opened
from tests.unit.gateway.conftest import TOKEN, open_bundle, shown


@pytest.mark.parametrize("load", [False, True])
async def test_an_opt_out_holds_when_an_alias_turns_back(running, places, addition, picture, load):
    _, client, admin = running
    first = (await client.describe()).bundle_id
    await admin(lambda one: one.load_bundle("two", alias="default", why="try it"))
    await admin(lambda one: one.delete_items(creator="Bo", why="opted out"))
    if load:
        await admin(lambda one: one.load_bundle("one", alias="default", why="back"))
    else:
        await admin(lambda one: one.set_alias("default", first, why="back"))
    assert (await client.describe()).bundle_id == first
    assert "Bo" not in await shown(client, picture)
    await admin(lambda one: one.add_item(addition(1), why="x"))
    assert "Bo" not in await shown(client, picture)
    kept = await admin(lambda one: one.changes())
    # The items, and that Bo left by name.
    assert [(change.kind, change.what, change.who) for change in kept] == [
        ("delete", "", "kim"),
        ("delete", "creator=Bo", "kim"),
        ("add", "", "kim"),
    ]
    await admin(lambda one: one.compact(why="x"))
    assert "Bo" not in await shown(client, picture)
    assert open_engine(places[0]).filters.count_of("Bo") == 0


@pytest.mark.parametrize("alias", ["default", ""])
async def test_a_copy_of_a_bundle_undoes_nothing(running, places, addition, picture, alias):
    _, client, admin = running
    older = shutil.copytree(places[0], places[0].with_name("older"))
    await admin(lambda one: one.delete_items(creator="Bo", why="opted out"))
    with pytest.raises(PreconditionError, match="this copy of it is at 0"):
        await admin(lambda one: one.load_bundle("older", alias="default", why="x"))
    with Store(older) as store:  # Its lock was given back.
        store.delete(Selection(ids=(1000,)), who="kim", why="x")
    # As many changes, but others.
    assert (await admin(lambda one: one.load_bundle("older", alias=alias, why="x"))).bundle_id
    assert {"Bo"}.isdisjoint(await shown(client, picture))
    await admin(lambda one: one.add_item(addition(1), why="x"))
    assert {"Bo"}.isdisjoint(await shown(client, picture))
    with pytest.raises(PreconditionError, match="was deleted by name"):
        await admin(lambda one: one.add_item(addition(2, 200, creator="Bo"), why="x"))
    assert open_engine(older).filters.count_of("Bo") == 0


async def test_a_server_does_not_start_with_a_copy_that_undoes_changes(serve, places):
    older = shutil.copytree(places[0], places[0].with_name("older"))
    with Store(places[0], open_engine) as store:
        store.delete(Selection(ids=(1000,)), who="kim", why="x")
        with pytest.raises(PreconditionError, match="this copy of it is at 0"):
            await serve(store.engine, more={"others": {"copy": Opened(open_engine(older))}})


@pytest.mark.parametrize("load", [False, True])
async def test_a_follower_that_turns_back_shows_no_opt_out(serve, places, picture, tmp_path, load):
    (tmp_path / "admins").write_text(f"kim {TOKEN}\n")
    gateway, client = await serve(
        open_engine(places[0]),
        more={"open_bundle": lambda place: Opened(open_engine(place))},
        admin_tokens_file=tmp_path / "admins",
        pinned_s=3600.0,
        follow_poll_s=0.0,
    )
    first = (await client.describe()).bundle_id

    def turn():
        with AdminClient(f"127.0.0.1:{gateway.port}", token=TOKEN) as admin:
            admin.load_bundle("two", alias="default", why="try it")
            with Store(places[1]) as store:
                store.delete(Selection(creator="Bo"), who="kim", why="opted out")
            admin.load_bundle("two", alias="default", why="as it is now")
            if load:
                admin.load_bundle("one", alias="default", why="back")
            else:
                admin.set_alias("default", first, why="back")

    await asyncio.to_thread(turn)
    assert (await client.describe()).bundle_id == first
    assert "Bo" not in await shown(client, picture)


async def test_an_opt_out_reaches_a_pinned_bundle_whose_groups_are_others(
    running, tiny, tiny_encoder_dir, places, picture
):
    _, client, admin = running
    first = (await client.describe()).bundle_id
    # The same corpus a month later: an item of Bo's has gone, groups and words are others.
    corpus = tiny.draw_corpus(places[0].parent / "corpus", 60)
    rows = pq.read_table(corpus / "items.parquet").to_pylist()
    later = [{**row, "near_dup_group": 900 + place, "caption": "new"} for place, row in enumerate(rows)]
    later = [row for row in later if row["creator"] != "Bo" or row["id"] < 1030]
    pq.write_table(pa.Table.from_pylist(later), corpus / "items.parquet")
    build_bundle(corpus, tiny_encoder_dir, places[0].parent / "later", probes=20, workers=1)
    await admin(lambda one: one.load_bundle("later", alias="default", why="monthly"))
    assert "Bo" in await shown(client, picture, first)
    await admin(lambda one: one.delete_items(ids=[1000], why="one of Ann's"))
    assert {"Ann", "Bo"} <= await shown(client, picture, first)
    with pytest.raises(NotFoundError):
        await client.get_item(1000, bundle_id=first)
    await admin(lambda one: one.delete_items(creator="Bo", why="opted out"))
    assert await shown(client, picture, first) == {"Ann", "Cy", "Dee"}


@pytest.mark.parametrize("compact", [False, True])
@pytest.mark.parametrize("load", [True, False])
async def test_a_bundle_that_is_built_anew_takes_over_who_left_the_one_before(
    running, places, picture, load, compact
):
    """Of an item that was deleted before it a compacted bundle knows neither the creator nor where it was."""
    _, client, admin = running
    await admin(lambda one: one.delete_items(creator="Bo", why="opted out"))
    await admin(lambda one: one.delete_items(ids=[1004], why="one of Ann's"))
    if compact:
        await admin(lambda one: one.compact(why="monthly"))
    if load:
        await admin(lambda one: one.load_bundle("two", alias="default", why="monthly"))
    else:
        second = (await admin(lambda one: one.load_bundle("two", why="monthly"))).bundle_id
        await admin(lambda one: one.set_alias("default", second, why="it is good"))
    assert "Bo" not in await shown(client, picture)
    with pytest.raises(NotFoundError):
        await client.get_item(1004)
    # Not in memory alone.
    kept = open_engine(places[1])
    assert kept.filters.count_of("Bo") == 0 and 1004 in kept.snapshot.deleted


async def test_who_consented_again_may_be_brought_back(running, picture):
    _, client, admin = running
    await admin(lambda one: one.delete_items(creator="Bo", why="opted out"))
    await admin(lambda one: one.load_bundle("two", alias="default", why="new terms", bring_back=True))
    assert "Bo" in await shown(client, picture)


@pytest.fixture
def reader(serve, places, tmp_path):
    """Start a server that cannot write, of a bundle that Bo was deleted from by name; takes settings."""

    async def start(**settings):
        (tmp_path / "admins").write_text(f"kim {TOKEN}\n")
        with Store(places[0]) as store:
            store.delete(Selection(creator="Bo"), who="kim", why="opted out")
        return await serve(
            open_engine(places[0]),
            more={"open_bundle": lambda place: Opened(open_engine(place))},
            admin_tokens_file=tmp_path / "admins",
            **settings,
        )

    return start


async def test_a_server_that_cannot_write_takes_them_over_while_it_runs(reader, picture):
    gateway, client = await reader()

    def turn():
        with AdminClient(f"127.0.0.1:{gateway.port}", token=TOKEN) as admin:
            return admin.load_bundle("two", alias="default", why="monthly").bundle_id

    assert await asyncio.to_thread(turn) == (await client.describe()).bundle_id
    assert "Bo" not in await shown(client, picture)


async def test_what_a_follower_took_over_holds_in_the_compacted_bundle(reader, places, picture):
    """Its writer knows nothing of it, so the compaction has the items."""
    gateway, client = await reader(follow_poll_s=0.02)

    def turn_and_compact():
        with AdminClient(f"127.0.0.1:{gateway.port}", token=TOKEN) as admin:
            admin.load_bundle("two", alias="default", why="monthly")
        with Store(places[1], open_engine) as store:
            store.delete(Selection(ids=(1007,)), who="kim", why="x")
            return store.compact(who="kim", why="monthly").bundle_id

    compacted = await asyncio.to_thread(turn_and_compact)
    while (await client.describe()).bundle_id != compacted:
        await asyncio.sleep(0.02)
    assert "Bo" not in await shown(client, picture)


@pytest.mark.parametrize("when", ["meanwhile", "under way"])
async def test_what_is_deleted_while_an_alias_turns_is_taken_over(running, picture, monkeypatch, when):
    gateway, client, admin = running
    second = (await admin(lambda one: one.load_bundle("two", why="monthly"))).bundle_id
    store, take_over = gateway.registry.behind("default").store, gateway.bundles._take_over
    begun, go, done = threading.Event(), threading.Event(), []

    def late(*given):
        take_over(*given)
        if when == "meanwhile" and not done:
            done.append(store.delete(Selection(creator="Bo"), who="kim", why="opted out"))
        go.set()

    def slow(*given, delete=store.delete, **named):
        begun.set()
        assert go.wait(30)
        return delete(*given, **named)

    monkeypatch.setattr(gateway.bundles, "_take_over", late)
    tasks = []
    if when == "under way":
        monkeypatch.setattr(store, "delete", slow)
        tasks.append(asyncio.create_task(admin(lambda one: one.delete_items(creator="Bo", why="opted out"))))
        await asyncio.to_thread(begun.wait, 30)
    await admin(lambda one: one.set_alias("default", second, why="it is good"))
    await asyncio.gather(*tasks)
    assert (await client.describe()).bundle_id == second
    assert "Bo" not in await shown(client, picture)


async def one_served(serve, bundles):
    """A server of the bundle `one` that can load those beside it."""
    admins = bundles.parent / "admins"
    admins.write_text(f"kim {TOKEN}\n")
    first = open_bundle(bundles / "one")
    more = {"open_bundle": open_bundle}
    return (await serve(first.engine, first.store, more=more, admin_tokens_file=admins))[0]


@pytest.mark.parametrize("compact", [False, True])
@pytest.mark.parametrize(
    ("before", "after", "creator"),
    [(1000, 1000, None), (1000, 7000, None), (2**40, 2**40, "Somebody else")],
    ids=["same", "renumbered", "renamed"],
)
async def test_an_item_is_the_same_in_a_bundle_that_is_built_anew(
    serve, tiny, tiny_encoder_dir, tmp_path, before, after, creator, compact
):
    """Built of a folder with another name ids are others; a table that was corrected names others."""
    bundles, corpus = tmp_path / "bundles", tiny.draw_corpus(tmp_path / "corpus", 60)
    rows = pq.read_table(corpus / "items.parquet").to_pylist()
    for name, first, who in (("one", before, None), ("two", after, creator)):
        named = [{**row, "id": first + at, "creator": who or row["creator"]} for at, row in enumerate(rows)]
        pq.write_table(pa.Table.from_pylist(named), corpus / "items.parquet")
        build_bundle(corpus, tiny_encoder_dir, bundles / name, probes=20, workers=1)
        rows.pop()
    gateway = await one_served(serve, bundles)

    def turn():
        with AdminClient(f"127.0.0.1:{gateway.port}", token=TOKEN) as admin:
            admin.delete_items(ids=[before + 4, before + 9], why="opted out")
            if compact:
                admin.compact(why="monthly")
            admin.load_bundle("two", alias="default", why="monthly")

    await asyncio.to_thread(turn)
    assert set(open_engine(bundles / "two").snapshot.deleted) == {after + 4, after + 9}


@pytest.mark.parametrize("bring_back", [False, True])
async def test_who_left_by_name_is_kept_out_of_a_bundle_without_them_too(
    running, places, addition, bring_back
):
    """Built without Bo, it would take Bo's next picture."""
    _, _, admin = running
    with Store(places[1]) as store:
        store.delete(Selection(ids=tuple(range(1001, 1300, 4))), who="kim", why="a corpus without Bo")
        store.compact(who="kim", why="x", erase=True)
    await admin(lambda one: one.delete_items(creator="Bo", why="opted out"))
    await admin(lambda one: one.load_bundle("two", alias="default", why="new", bring_back=bring_back))
    if bring_back:
        await admin(lambda one: one.add_item(addition(1, 200, creator="Bo"), why="x"))
        return
    with pytest.raises(PreconditionError, match="was deleted by name"):
        await admin(lambda one: one.add_item(addition(1, 200, creator="Bo"), why="x"))
    assert [change.what for change in await admin(lambda one: one.changes())][-1] == "creator=Bo"


async def test_what_was_brought_back_of_who_left_is_all_that_a_bundle_built_anew_keeps(
    running, places, picture, addition
):
    _, _, admin = running
    await admin(lambda one: one.delete_items(creator="Bo", why="opted out"))
    back = addition(2**40, 200, creator="Bo")
    await admin(lambda one: one.add_item(back, why="this one may", bring_back=True))
    with Store(places[1]) as store:
        there = store.snapshot.filters.count_of("Bo")
        store.add([NewItem(2**40, back.picture, back.caption, "Bo")], who="kim", why="the corpus has it")
        assert store.snapshot.filters.count_of("Bo") == there + 1
    await admin(lambda one: one.load_bundle("two", alias="default", why="monthly"))
    kept = open_engine(places[1])
    assert kept.filters.count_of("Bo") == 1 and kept.snapshot.row_of(2**40)
    with pytest.raises(PreconditionError, match="was deleted by name"):
        await admin(lambda one: one.add_item(addition(1, 202, creator="Bo"), why="x"))


async def test_what_stayed_is_not_taken_for_what_was_deleted_before_a_compaction(
    serve, tiny, tiny_encoder_dir, tmp_path
):
    """Two creators had one picture, and one of them left."""
    bundles, corpus = tmp_path / "bundles", tiny.draw_corpus(tmp_path / "corpus", 60)
    rows = pq.read_table(corpus / "items.parquet").to_pylist()
    rows.append({**rows[4], "id": 1900, "creator": "Zoe"})
    rows = [{"file": f"pictures/{min(at, 4 if at == 60 else at)}.png", **row} for at, row in enumerate(rows)]
    for name, first in (("one", 1000), ("two", 7000)):
        named = [{**row, "id": first + at} for at, row in enumerate(rows)]
        pq.write_table(pa.Table.from_pylist(named), corpus / "items.parquet")
        build_bundle(corpus, tiny_encoder_dir, bundles / name, probes=20, workers=1)
        rows[0]["caption"] = "another"
    gateway = await one_served(serve, bundles)

    def turn():
        with AdminClient(f"127.0.0.1:{gateway.port}", token=TOKEN) as admin:
            admin.delete_items(ids=[1004], why="opted out")
            admin.compact(why="monthly")
            admin.load_bundle("two", alias="default", why="monthly")

    await asyncio.to_thread(turn)
    assert set(open_engine(bundles / "two").snapshot.deleted) == {7004}
