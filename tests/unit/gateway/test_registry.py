"""Several bundles behind one server: who is answered by which, for how long, and what a replaced one may still show."""

import asyncio
import contextlib
from types import SimpleNamespace

import pytest

from attributary.client import query
from attributary.delta.inherit import inherit_deletions
from attributary.delta.journal.records import NOBODY
from attributary.errors import InvalidArgumentError, NotFoundError, PreconditionError
from attributary.gateway.config import check_alias
from attributary.gateway.opened import Opened

A, B, C = "00000000000000aa", "00000000000000bb", "00000000000000cc"


@pytest.fixture
async def two(serve, engine, fake_engine):
    """A server with bundles A, the default "one", and B, "two"; what it replaces stays for an hour."""
    other = fake_engine(bundle_id=B)
    return await serve(engine, more={"alias": "one", "others": {"two": Opened(other)}}, pinned_s=3600.0)


async def until(condition):
    while not condition():
        await asyncio.sleep(0.001)


async def test_a_request_names_an_alias_or_an_id_or_takes_the_default(two, vector):
    _, client = two
    for name, answers in (("", A), ("one", A), ("two", B), (A, A), (B, B)):
        asked = {"bundle_id": name}
        assert (await client.attribute(embedding=vector(1), **asked)).bundle_id == answers
        batch = await client.attribute_batch([query(embedding=vector(1))] * 2, **asked)
        assert {answer.bundle_id for answer in batch} == {answers}
        streamed = [answer async for answer in client.attribute_stream([query(embedding=vector(1))], **asked)]
        assert streamed[0].bundle_id == answers
        assert (await client.describe(**asked)).bundle_id == answers
        assert (await client.get_item(7, **asked)).id == 7
    for name in ("three", C, "x" * 100_000):
        for call in (
            client.attribute(embedding=vector(1), bundle_id=name),
            client.attribute_batch([query(embedding=vector(1))], bundle_id=name),
            client.describe(bundle_id=name),
            client.get_item(7, bundle_id=name),
        ):
            with pytest.raises(NotFoundError) as caught:
                await call
            assert caught.value.kind == "bundle"


async def test_pinned_callers_keep_a_replaced_bundle_for_its_time(two, fake_engine, vector):
    gateway, client = two
    gone = gateway.registry.swap("one", fake_engine(bundle_id=C))
    assert (await client.attribute(embedding=vector(1))).bundle_id == C
    assert (await client.attribute(embedding=vector(1), bundle_id=A)).bundle_id == A
    assert not gone.done()
    gateway.registry.find(A).go.set()
    await gone
    with pytest.raises(NotFoundError):
        await client.attribute(embedding=vector(1), bundle_id=A)


async def test_a_call_inside_ends_with_the_bundle_that_it_began_with(two, engine, fake_engine, vector):
    gateway, client = two
    engine.gate.clear()
    held = asyncio.create_task(client.attribute(embedding=vector(1)))
    await until(lambda: gateway.registry.find(A).pipeline.calls == 1)
    gone = gateway.registry.swap("one", fake_engine(bundle_id=C), pinned_s=0.0)
    await until(lambda: len(gateway.registry.bundles) == 2)
    with pytest.raises(NotFoundError):
        gateway.registry.find(A)
    assert not gone.done()
    engine.gate.set()
    assert (await held).bundle_id == A
    await gone


async def test_an_alias_turns_back_to_a_bundle_that_drains(two, vector):
    gateway, client = two
    registry = gateway.registry
    registry.set_alias("one", "two")
    assert registry.find(A).draining
    registry.set_alias("one", A)
    assert not registry.find(A).draining
    assert (await client.attribute(embedding=vector(1))).bundle_id == A
    assert registry.aliases_of(registry.find(B)) == ["two"]


@pytest.mark.parametrize("turns", range(4))
async def test_a_bundle_that_is_taken_back_as_its_time_is_over_stays(two, vector, turns):
    gateway, client = two
    registry = gateway.registry
    registry.set_alias("one", "two")
    going = registry.find(A)
    going.go.set()
    for _ in range(turns):
        await asyncio.sleep(0)
    try:
        registry.set_alias("one", A)
    except NotFoundError:
        # It had gone: then all of it has.
        assert going not in registry.bundles
        return
    await asyncio.sleep(0.01)
    assert registry.find(A) is going
    assert (await client.attribute(embedding=vector(1), bundle_id=A)).bundle_id == A


async def test_one_engine_may_have_two_aliases_from_the_start(serve, engine, vector):
    gateway, client = await serve(engine, more={"alias": "one", "others": {"two": Opened(engine)}})
    assert [gateway.registry.aliases_of(served) for served in gateway.registry.bundles] == [["one", "two"]]
    assert (await client.attribute(embedding=vector(1), bundle_id="two")).bundle_id == A


async def test_a_bundle_with_another_alias_stays(two):
    registry = two[0].registry
    registry.set_alias("spare", "one")
    registry.set_alias("one", "two")
    assert not registry.find(A).draining
    assert registry.find("spare").bundle_id == A


async def test_the_same_bundle_opened_anew_takes_every_alias_at_once(two, fake_engine, vector):
    gateway, client = two
    before = gateway.registry.find(A)
    gone = gateway.registry.swap("one", fake_engine(bundle_id=A))
    assert gateway.registry.find("one") is gateway.registry.find(A) is not before
    assert gateway.registry.aliases_of(gateway.registry.find(A)) == ["one"]
    await gone
    await until(lambda: before.leaving.done())
    assert (await client.attribute(embedding=vector(1), bundle_id=A)).bundle_id == A


async def test_a_burst_of_swaps_does_not_add_up(serve, engine, fake_engine):
    gateway, _ = await serve(engine, pinned_s=3600.0, max_draining=2)
    ids = [f"{number:016x}" for number in range(1, 8)]
    for bundle_id in ids:
        gateway.registry.swap("default", fake_engine(bundle_id=bundle_id))
    await until(lambda: len(gateway.registry.bundles) == 3)
    assert [served.bundle_id for served in gateway.registry.bundles] == [ids[-1], ids[-3], ids[-2]]


async def test_the_default_is_not_unloaded(two):
    registry = two[0].registry
    for name in ("", "one", A):
        with pytest.raises(PreconditionError, match="one is the default"):
            registry.remove(name)
    registry.remove("two", pinned_s=0.0)
    await until(lambda: len(registry.bundles) == 1)
    with pytest.raises(NotFoundError):
        registry.find("two")


@pytest.mark.parametrize("alias", ["", A, "-x", "a b", "a/b", "x" * 65, "ä", "a\n"])
def test_what_is_no_alias(alias):
    with pytest.raises(InvalidArgumentError, match="alias"):
        check_alias(alias)


async def test_a_drain_waits_for_no_pinned_caller(two, fake_engine):
    gateway, _ = two
    gateway.registry.swap("one", fake_engine(bundle_id=C))
    await gateway.drain()
    assert gateway.registry.bundles == []


class Rows:
    """Items by id and creator."""

    def __init__(self, records):
        self.records = records

    def row_of(self, item_id):
        return next((row for row, (known, _) in enumerate(self.records) if known == item_id), None)

    def creator(self, row):
        return self.records[row][1]


def snapshot(records, deleted=()):
    bundle = SimpleNamespace(items=Rows(records), manifest=SimpleNamespace(encoder=SimpleNamespace(dim=4)))
    found = SimpleNamespace(bundle=bundle, deleted=dict.fromkeys(deleted, "now"), item_count=len(records))
    found.revision, found.applied, found.filters = 0, [], SimpleNamespace(former=NOBODY)
    found.apply = lambda changes: SimpleNamespace(**{**vars(found), "applied": list(changes.deleted)})
    return found


def test_only_the_same_item_is_inherited_as_deleted():
    old = SimpleNamespace(snapshot=snapshot([(1, "Ann"), (2, "Bo"), (3, "Cy")]))
    successor = snapshot([(1, "Ann"), (2, "another corpus's"), (3, "Cy")], deleted=(1, 2, 9))
    assert inherit_deletions(old, successor, compacted=False)
    assert old.snapshot.applied == [1]


def test_a_compacted_bundle_names_deleted_items_no_more_and_they_are_inherited():
    old = SimpleNamespace(snapshot=snapshot([(1, "Ann"), (2, "Bo"), (3, "Cy")]))
    assert inherit_deletions(old, snapshot([(2, "Bo"), (3, "Cy")], deleted=(1, 9)), compacted=True)
    assert old.snapshot.applied == [1]


def test_a_bundle_of_which_nothing_is_left_answers_nobody():
    old = SimpleNamespace(snapshot=snapshot([(1, "Ann")]))
    assert not inherit_deletions(old, snapshot([(1, "Ann")], deleted=(1,)), compacted=False)


async def test_watchers_of_a_gone_bundle_may_give_up(two, fake_engine):
    gateway, _ = two
    waiting = asyncio.ensure_future(gateway.swap(fake_engine(bundle_id=C)))
    await asyncio.sleep(0)
    waiting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await waiting
    assert gateway.registry.find(A).draining
