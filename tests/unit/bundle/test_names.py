"""Spellings of a name that nobody can tell apart are one creator: in totals, filters, deletions, payouts."""

import json
import shutil
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from attributary.attribution.open import open_engine
from attributary.attribution.snapshot import Snapshot
from attributary.attribution.types import Filter, Options, Query
from attributary.building import build_bundle
from attributary.building.source import read_source
from attributary.bundle.items import ItemTable
from attributary.bundle.names import same_name
from attributary.cli.main import cli
from attributary.delta.selection import Selection
from attributary.delta.store import Store
from attributary.errors import InvalidArgumentError

ZOE = "Zoë Ångström"
SPELLINGS = (
    ZOE,
    "Zoe\u0308 A\u030angstro\u0308m",
    "Zoë  Ångström",
    " Zoë Ångström\u00a0",
    "Zo\u200bë \ufeffÅngström",
    "Zoë\tÅngström\ufe0f",
    "Zoë\u3000Ångstr\u00adöm",
)
OTHERS = ("zoë ångström", "Zoe Angstrom", "Zoë Ångströ", "Zoë Ångströms", "ZoëÅngström")
BY = {"who": "Kim", "why": "a test"}


@pytest.fixture(scope="module")
def source(tiny, tiny_encoder_dir, tmp_path_factory):
    """A bundle in which one creator stands in every spelling, beside others whose names are nearly hers."""
    place = tmp_path_factory.mktemp("names")
    corpus = tiny.draw_corpus(place / "corpus", 60)
    names = (*SPELLINGS, *OTHERS)
    rows = [
        {**row, "creator": names[number % len(names)], "licence": ("MIT", "MIT ")[number % 2]}
        for number, row in enumerate(pq.read_table(corpus / "items.parquet").to_pylist())
    ]
    pq.write_table(pa.Table.from_pylist(rows), corpus / "items.parquet")
    build_bundle(corpus, tiny_encoder_dir, place / "bundle", probes=20, workers=1)
    return place


@pytest.fixture
def bundle_dir(source, tmp_path):
    """A copy of it."""
    return shutil.copytree(source / "bundle", tmp_path / "bundle")


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_one_name_has_one_spelling(spelling):
    assert same_name(spelling) == ZOE


@pytest.mark.parametrize("name", ["Ada", *OTHERS, "", "\u200b", "Ada\u0301 👩‍🚀".replace("\u200d", "")])
def test_other_names_and_empty_ones_stay_what_they_are(name):
    assert same_name(same_name(name)) == same_name(name) != ZOE
    assert bool(same_name(name)) == bool(name)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Zoe\u0308\u200d", "Zoë"),
        ("Jean\u2011Luc", "Jean-Luc"),
        ("Jean\u2010\u200cLuc", "Jean-Luc"),
        ("\u200dBo", "Bo"),
        ("Bo\u200c\u200d Li", "Bo Li"),
        ("\u212b\u200d", "Å"),
        ("山田\u200c", "山田"),
    ],
)
def test_joiners_that_join_nothing_and_hyphens_of_text_programs_make_no_other_name(one, other):
    assert same_name(one) == other == same_name(other)


@pytest.mark.parametrize("name", ["نوش\u200cآفرین", "ക്\u200d", "👩\u200d🎨", "नीरज\u200d", "Ann–Marie"])  # noqa: RUF001
def test_joiners_that_are_read_stay(name):
    assert same_name(name) == name


def test_a_table_has_each_creator_once(source):
    items = ItemTable.read(source / "bundle" / "items.parquet")
    assert items.creator_names == sorted({ZOE, *OTHERS})
    assert items.licence_names == ["MIT"]
    assert {items.creator(row) for row in range(0, 60, 12)} == {ZOE}
    assert len({items.creator_codes[name] for name in SPELLINGS}) == 1
    assert json.loads((source / "bundle" / "manifest.json").read_text())["creator_count"] == 1 + len(OTHERS)


def test_a_bundle_that_counted_spellings_has_fewer_creators(bundle_dir):
    engine = open_engine(bundle_dir)
    manifest = replace(engine.bundle.manifest, creator_count=len(SPELLINGS) + len(OTHERS))
    assert Snapshot.of(replace(engine.bundle, manifest=manifest), engine.index).creator_count == 1 + len(
        OTHERS
    )


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_an_opt_out_takes_every_spelling_and_nobody_else(bundle_dir, picture, spelling):
    with Store(bundle_dir, open_engine) as store:
        gone = store.delete(Selection(creator=spelling), **BY)
        assert len(gone.ids) == 35  # seven of twelve, five times
        answer = store.engine.attribute(Query(image=picture(0)), Options(top_k=60, top_creators=60))
        assert {item.creator for item in answer.items} == set(OTHERS)
        for other in SPELLINGS:
            assert store.delete(Selection(creator=other), **BY).ids == ()
            store.engine.prepare(Query(image=picture(0)), Options(filter=Filter(exclude_creators=(other,))))
        store.compact(**BY)
        for other in SPELLINGS:
            assert store.delete(Selection(creator=other), **BY).ids == ()
            store.engine.prepare(Query(image=picture(0)), Options(filter=Filter(exclude_creators=(other,))))


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_filters_and_totals_know_one_creator(bundle_dir, picture, spelling):
    engine = open_engine(bundle_dir)
    query = Query(image=picture(0))
    plain = engine.attribute(query, Options(top_creators=60))
    [whole] = [total.share for total in plain.creators if total.creator == ZOE]
    only, without = (
        engine.attribute(query, Options(top_k=60, top_creators=60, filter=Filter(**{kind: (spelling,)})))
        for kind in ("include_creators", "exclude_creators")
    )
    assert {item.creator for item in only.items} == {ZOE}
    assert [(total.creator, total.share) for total in only.creators] == [(ZOE, pytest.approx(whole))]
    assert ZOE not in {item.creator for item in without.items}
    assert without.withheld_share == pytest.approx(whole, abs=1e-6)


def test_an_addition_in_another_spelling_is_hers(bundle_dir, picture):
    from attributary.delta.items import NewItem

    with Store(bundle_dir, open_engine) as store:
        item = NewItem(1, picture(200), "a red ellipse", SPELLINGS[1], licence="MIT")
        assert store.add([item], **BY).outcomes == [None]
        assert store.snapshot.bundle.items.creator(store.snapshot.row_of(1)) == ZOE
        repeated = NewItem(1, picture(200), "a red ellipse", SPELLINGS[2], licence="MIT")
        assert store.add([repeated], **BY).outcomes == [None]
        assert 1 in store.delete(Selection(creator=ZOE), **BY).ids


def test_a_build_leaves_every_spelling_out(source):
    left = set(read_source(source / "corpus", (SPELLINGS[3],)).table["creator"].to_pylist())
    assert left == set(OTHERS)


def test_names_that_may_be_hers_and_stay_are_told(bundle_dir):
    with Store(bundle_dir) as store:
        done = store.delete(Selection(creator=SPELLINGS[2]), dry_run=True, **BY)
        assert set(done.similar) == {"zoë ångström", "Zoe Angstrom", "ZoëÅngström"}
        for name in ("zoë ångström", "ZoëÅngström"):
            store.delete(Selection(creator=name), **BY)
        assert store.delete(Selection(creator=ZOE), **BY).similar == ("Zoe Angstrom",)
        assert store.delete(Selection(creator="Zoë Ångströ"), **BY).similar == ()
        assert store.delete(Selection(ids=(1011,)), **BY).similar == ()


def test_the_command_tells_them(bundle_dir):
    given = ["bundle", "delete", str(bundle_dir), "--creator", ZOE, "--why", "opted out"]
    assert "still there, and perhaps the same: " in CliRunner().invoke(cli, given).stderr
    told = json.loads(CliRunner().invoke(cli, [*given, "--json"]).stdout)
    assert "zoë ångström" in told["similar_names"]


def test_capitals_are_another_name_that_is_told(bundle_dir):
    with Store(bundle_dir) as store, pytest.raises(InvalidArgumentError, match="near: 'Zoë Ångström'"):
        store.delete(Selection(creator="ZOË ÅNGSTRÖM"), **BY)


def test_a_name_that_is_longer_than_names_are_is_left_alone():
    # Ordering so many accents would take minutes.
    long = "a" + "\u0300\u0316" * 500_000
    assert same_name(long) is long
    assert len(same_name("A\u0308" * 256)) == 256
