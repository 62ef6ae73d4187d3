"""The one writer of a bundle: what it refuses, what it keeps, what others may see."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from click.testing import CliRunner

from attributary.attribution.open import open_engine
from attributary.attribution.types import Filter, Limits, Options, Query
from attributary.building import build_bundle
from attributary.bundle.bundle import delta_path
from attributary.cli.main import cli
from attributary.delta.entry import Terms
from attributary.delta.items import NewItem
from attributary.delta.selection import Selection
from attributary.delta.store import Store
from attributary.errors import (
    AlreadyExistsError,
    BundleError,
    DeletedError,
    InvalidArgumentError,
    PreconditionError,
)

BY = {"who": "Kim", "why": "a test"}


@pytest.mark.parametrize(
    ("fields", "field", "words"),
    [
        ({"caption": " "}, "item.caption", "must be given"),
        ({"creator": ""}, "item.creator", "must be given"),
        ({"caption": "x" * 9000}, "item.caption", "9000 bytes, the limit is 8192"),
        ({"creator": "é" * 300}, "item.creator", "600 bytes, the limit is 512"),
        ({"licence": "x" * 513}, "item.licence", "the limit is 512"),
        ({"uri": "x" * 5000}, "item.uri", "the limit is 4096"),
        ({"uri": "\ud800"}, "item.uri", "Unicode"),
        ({"creator": "Ann\nBo"}, "item.creator", r"must be one line without control characters, got Ann\nBo"),
        ({"licence": "MIT\x1b[2J"}, "item.licence", r"got MIT\x1b[2J"),
        ({"picture": b"GIF89a"}, "item.image", ""),
        ({"picture": b""}, "item.image", "empty"),
        ({"id": 2**63}, "item.id", "64 bits"),
        ({"near_dup_of": 5}, "item.near_dup_of", "no such item: 5"),
    ],
)
def test_a_wrong_item_is_refused_by_field_and_leaves_the_others_alone(
    store, new_item, picture, fields, field, words
):
    given = {
        "item_id": fields.get("id", 1),
        **{name: value for name, value in fields.items() if name != "id"},
    }
    wrong = new_item(given.pop("item_id"), **{name: given[name] for name in given if name != "picture"})
    if "picture" in fields:
        wrong = type(wrong)(wrong.id, fields["picture"], wrong.caption, wrong.creator)
    result = store.add([new_item(10), wrong, new_item(11)], **BY)
    assert [outcome is None for outcome in result.outcomes] == [True, False, True]
    assert isinstance(result.outcomes[1], InvalidArgumentError)
    assert result.outcomes[1].field == field
    assert words in str(result.outcomes[1])
    assert store.snapshot.item_count == 62


def test_an_id_is_never_used_again(store, new_item):
    store.add([new_item(1)], **BY)
    store.delete(Selection(ids=(1, 1005)), **BY)
    for item_id in (1, 1005):
        assert "ids are not used again" in str(store.add([new_item(item_id)], **BY).outcomes[0])
    store.compact(**BY)
    for item_id in (1, 1005):
        assert "ids are not used again" in str(store.add([new_item(item_id)], **BY).outcomes[0])
        with pytest.raises(DeletedError, match=f"item {item_id} was deleted at 20"):
            store.engine.snapshot.row_of(item_id)


def test_an_addition_that_is_repeated_is_answered_as_the_first_was(store, new_item):
    first, joined = new_item(1), new_item(2, near_dup_of=1)
    before = store.add([first, joined, first], **BY)
    assert (before.outcomes, before.revisions) == ([None] * 3, [1, 1, 1])
    store.add([new_item(3)], **BY)
    again = store.add([joined, new_item(4), first], **BY)
    assert (again.outcomes, again.revisions, again.revision) == ([None] * 3, [1, 3, 1], 3)
    assert store.snapshot.item_count == 64
    store.compact(**BY)
    after = store.add([first], **BY)
    assert (after.outcomes, after.revisions, store.snapshot.item_count) == ([None], [1], 64)
    assert len(store.history) == 4


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"caption": "a blue ellipse"}, "another caption"),
        ({"creator": "Zoe"}, "another creator"),
        ({"creator_url": "https://x.example"}, "another creator_url"),
        ({"licence": "MIT"}, "another licence"),
        ({"uri": "new/2"}, "another uri"),
        ({"near_dup_of": 1003}, "another near_dup_of"),
        ({"number": 8}, "another picture"),
    ],
)
def test_an_addition_that_differs_from_the_first_exists_already(store, new_item, fields, words):
    store.add([new_item(1)], **BY)
    for items in ([new_item(1, **fields)], [new_item(5), new_item(5, **fields)]):
        outcome = store.add(items, **BY).outcomes[-1]
        assert isinstance(outcome, AlreadyExistsError)
        assert (outcome.kind, outcome.name) == ("item", str(items[-1].id))
    assert words in str(store.add([new_item(1, **fields)], **BY).outcomes[0])
    assert store.snapshot.item_count == 62


def test_an_item_of_the_bundle_as_it_was_built_exists_already(store, new_item):
    outcome = store.add([new_item(1003)], **BY).outcomes[0]
    assert isinstance(outcome, AlreadyExistsError)
    assert "as it was built" in str(outcome)


@pytest.mark.parametrize(
    ("who", "why", "field"),
    [
        ("", "x", "who"),
        ("x", " ", "why"),
        ("x", "y" * 3000, "why"),
        ("x", "opted out)\n     9  2026-01-01  eve  delete 0  forged", "why"),
        ("kim\r", "x", "who"),
        ("x", "\x1b[1A", "why"),
        ("x", "a\u2028b", "why"),
        ("x\u202eevil", "y", "who"),
        ("x", "\ud800", "why"),
    ],
)
def test_every_change_needs_a_name_and_a_reason(store, new_item, who, why, field):
    for change in (
        lambda: store.add([new_item(1)], who=who, why=why),
        lambda: store.delete(Selection(creator="Ann"), who=who, why=why),
        lambda: store.compact(who=who, why=why),
    ):
        with pytest.raises(InvalidArgumentError) as caught:
            change()
        assert caught.value.field == field
    assert store.snapshot.revision == 0


@pytest.mark.parametrize("given", [{}, {"ids": (1,), "creator": "Ann"}, {"ids": (), "source": ""}])
def test_exactly_one_selection(given):
    with pytest.raises(InvalidArgumentError, match="exactly one of ids, creator, licence, source"):
        Selection(**given)


def test_what_is_deleted_is_gone_from_shares_and_totals(store, picture):
    first = store.engine.attribute(Query(image=picture(3)), Options(top_k=5, top_creators=4))
    assert first.items[0].creator == "Dee"
    result = store.delete(Selection(creator="Dee"), **BY)
    assert len(result.ids) == 15
    answer = store.engine.attribute(Query(image=picture(3)), Options(top_k=32))
    assert "Dee" not in {item.creator for item in answer.items} | {total.creator for total in answer.creators}
    assert len(answer.items) == 32
    # What is taken away is nobody's: no other creator gets it.
    before = {total.creator: total.share for total in first.creators}
    assert answer.withheld_share == pytest.approx(before["Dee"], abs=1e-4)
    for total in answer.creators:
        assert total.share == pytest.approx(before[total.creator], abs=1e-4)
    # Who filters by that name has done nothing wrong.
    store.engine.prepare(Query(image=picture(3)), Options(filter=Filter(exclude_creators=("Dee",))))


def test_creators_and_licences_are_counted_before_a_query_asks(store, new_item):
    def check():
        snapshot = store.snapshot
        rows = (
            np.arange(len(snapshot.bundle.items))
            if snapshot.alive is None
            else np.flatnonzero(snapshot.alive)
        )
        for name, of_row in (
            ("creators", snapshot.bundle.items.creator_of_row),
            ("licences", snapshot.bundle.items.licence_of_row),
        ):
            counts = vars(snapshot.filters)[name]
            wanted = np.bincount(of_row[rows], minlength=len(counts))
            assert counts.tolist() == wanted.tolist()

    store.add([new_item(1, creator="New", licence="Mine"), new_item(2)], **BY)
    check()
    store.delete(Selection(ids=(1, 1003)), **BY)
    check()
    store.delete(Selection(creator="Dee"), **BY)
    check()
    store.add([new_item(3, creator="Dee")], **BY)
    check()


def test_a_query_prepared_before_a_deletion_is_answered_after_it(store, picture):
    only = Options(top_k=5, filter=Filter(include_creators=("Dee",)))
    prepared = [store.engine.prepare(Query(image=picture(3)), given) for given in (only, Options(top_k=32))]
    store.delete(Selection(creator="Dee"), **BY)
    filtered, plain = store.engine.run(prepared)
    assert filtered.items == ()
    assert len(plain.items) == 32


def test_an_added_copy_shares_credit(store, picture, new_item):
    alone = store.engine.attribute(Query(image=picture(7)), Options(top_k=2, top_creators=9))
    store.add([new_item(5, 7, creator="Twin", near_dup_of=1007, caption="a blue rectangle")], **BY)
    both = store.engine.attribute(Query(image=picture(7)), Options(top_k=2, top_creators=9))
    assert {item.id for item in both.items} == {5, 1007}
    assert both.diffuse_share == pytest.approx(alone.diffuse_share, abs=0.02)


def test_a_dry_run_changes_nothing(store):
    assert len(store.delete(Selection(licence="MIT"), dry_run=True, **BY).ids) == 30
    assert (store.snapshot.item_count, store.snapshot.revision, store.history) == (60, 0, [])


def test_the_last_items_cannot_be_deleted(store):
    with pytest.raises(InvalidArgumentError, match="would delete all 60 items"):
        store.delete(Selection(source="file:"), **BY)


def test_too_many_waiting_items_ask_for_a_compaction(bundle_dir, new_item):
    with Store(bundle_dir, open_engine, max_added=2) as store:
        store.add([new_item(1), new_item(2)], **BY)
        with pytest.raises(PreconditionError, match="compact first"):
            store.add([new_item(3)], **BY)
        store.compact(**BY)
        assert store.add([new_item(3)], **BY).outcomes == [None]


def test_one_writer_at_a_time(store, bundle_dir):
    with pytest.raises(
        PreconditionError, match=f"process {os.getpid()} is changing bundle; one writer at a time"
    ):
        Store(bundle_dir)
    code = f"from attributary.delta.store import Store; Store({str(bundle_dir)!r})"
    failed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "one writer at a time" in failed.stderr


def test_readers_see_what_was_acknowledged(store, bundle_dir, picture, new_item):
    store.add([new_item(1, 3)], **BY)
    store.delete(Selection(creator="Ann"), **BY)
    asked = (Query(image=picture(3), prompt="a red ellipse"), Options(top_k=30))
    reader = open_engine(bundle_dir)
    assert reader.attribute(*asked).items == store.engine.attribute(*asked).items
    assert reader.snapshot.revision == 2
    # An unfinished record is not theirs to repair.
    path = delta_path(bundle_dir, store.bundle_id)
    with path.open("ab") as file:
        file.write(b"ATJR half")
    assert open_engine(bundle_dir).snapshot.revision == 2
    assert path.read_bytes().endswith(b"half")


def test_a_damaged_journal_is_refused_by_name(bundle_dir):
    with Store(bundle_dir) as store:
        store.delete(Selection(creator="Ann"), **BY)
        store.delete(Selection(creator="Bo"), **BY)
        path = delta_path(bundle_dir, store.bundle_id)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)
    for opening in (lambda: open_engine(bundle_dir), lambda: Store(bundle_dir)):
        with pytest.raises(BundleError, match=rf"delta/{path.name}: byte \d+: .*damaged"):
            opening()


def test_a_build_in_its_place_does_not_lose_deletions(bundle_dir, tiny_corpus_dir, tiny_encoder_dir):
    def build():
        build_bundle(tiny_corpus_dir, tiny_encoder_dir, bundle_dir, probes=40, workers=1, force=True)

    build()
    with Store(bundle_dir) as store:
        store.delete(Selection(creator="Ann"), **BY)
    for _ in range(2):
        with pytest.raises(PreconditionError, match="what was deleted would come back"):
            build()
        with Store(bundle_dir) as store:
            assert store.snapshot.row_of(1002) >= 0
            with pytest.raises(DeletedError):
                store.snapshot.row_of(1000)
            store.compact(**BY)


def test_a_quantised_encoder_does_not_make_vectors(bundle_dir, new_item):
    engine = open_engine(bundle_dir)
    other = type(engine.encoder.spec)("int8", "0" * 64, engine.spec.dim, engine.spec.image_size, 16)
    quantised = type("Quantised", (), {"spec": other, "encode": None})()
    engine.encoder = quantised
    with Store(bundle_dir, lambda place: engine) as store:
        assert store.add([new_item(1)], **BY).outcomes == [None]


def test_limits_of_the_server_hold_for_items(bundle_dir, new_item):
    limits = Limits(max_image_pixels=100, max_prompt_bytes=20)
    with Store(bundle_dir, lambda place: open_engine(place, limits=limits)) as store:
        first, second = store.add([new_item(1), new_item(2, caption="x" * 21)], **BY).outcomes
        assert first.field == "item.image"
        assert second.field == "item.caption"


def test_of_two_that_were_deleted_one_brings_one_back(store, bundle_dir, picture, new_item):
    """Two of Eve's and one of Bo's look the same and share one credit, a third each."""
    copies = [new_item(1, 200), new_item(2, 200), new_item(3, 200, creator="Bo")]
    assert store.add(copies, **BY).outcomes == [None] * 3
    asked = (Query(image=picture(200), prompt="a red ellipse"), Options(top_k=60, top_creators=60))

    def shares(engine):
        answer = engine.attribute(*asked)
        return {total.creator: total.share for total in answer.creators}, answer.withheld_share

    before, nothing = shares(store.engine)
    assert nothing == 0 and before["Eve"] == pytest.approx(2 * before["Bo"], rel=0.5)
    store.delete(Selection(ids=(1, 2)), **BY)
    back = Terms(bring_back=True)
    for number, part in ((11, 0.5), (12, 1.0)):
        assert store.add([new_item(number, 200)], terms=back, **BY).outcomes == [None]
        for engine in (store.engine, open_engine(bundle_dir)):
            after, withheld = shares(engine)
            assert after["Eve"] == pytest.approx(part * before["Eve"], abs=1e-3)
            assert after["Bo"] == pytest.approx(before["Bo"], abs=1e-3)
            assert withheld == pytest.approx((1 - part) * before["Eve"], abs=1e-3)
    # The deleted of the second time are others than those of the first.
    store.delete(Selection(ids=(11, 12)), **BY)
    assert store.add([new_item(21, 200)], terms=back, **BY).outcomes == [None]
    for engine in (store.engine, open_engine(bundle_dir)):
        after, withheld = shares(engine)
        assert after["Bo"] == pytest.approx(before["Bo"], abs=1e-3)
        assert (after["Eve"], withheld) == pytest.approx((before["Eve"] / 2, before["Eve"] / 2), abs=1e-3)


def test_a_log_shows_one_line_a_change(bundle_dir, monkeypatch):
    """Also what was written before such characters were refused."""
    monkeypatch.setattr("attributary.delta.change.check_line", lambda value, field: None)
    with Store(bundle_dir) as store:
        store.delete(
            Selection(ids=(1000,)), who="kim\x1b[1A", why="opted out)\n     2  2026-01-01  eve  delete 9  ("
        )
    told = CliRunner().invoke(cli, ["bundle", "log", str(bundle_dir)]).output
    assert told.count("\n") == 1
    assert "\x1b" not in told
    assert r"kim\x1b[1A  delete 1  ids 1000  (opted out)\n     2 " in told
    (entry,) = CliRunner().invoke(cli, ["bundle", "log", str(bundle_dir), "--json"]).output.splitlines()
    assert json.loads(entry)["who"] == "kim\x1b[1A"


def test_an_item_deleted_and_added_back_keeps_its_share(store, picture):
    """The encoder made the bundle's vectors, so it puts the same picture where it was."""
    items = store.engine.bundle.items
    for number in range(0, 60, 7):
        row = items.row_of(1000 + number)
        asked = (Query(image=picture(number), prompt=items.caption(row)), Options(top_k=32))
        before = store.engine.attribute(*asked)
        assert before.items[0].id == 1000 + number and before.items[0].share > 0.05
        store.delete(Selection(ids=(1000 + number,)), **BY)
        back = NewItem(
            2000 + number,
            picture(number),
            items.caption(row),
            items.creator(row),
            licence=items.licence(row),
            uri=items.uri(row),
        )
        assert store.add([back], terms=Terms(bring_back=True), **BY).outcomes == [None]
        after = store.engine.attribute(*asked)
        shares = {item.id % 1000: item.share for item in after.items}
        assert shares == pytest.approx({item.id % 1000: item.share for item in before.items}, abs=2e-3)
        assert after.withheld_share == pytest.approx(before.withheld_share, abs=2e-3)
