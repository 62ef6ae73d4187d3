"""One creator, one spelling: what looks the same is one creator in a table, a filter, a deletion, an addition."""

import unicodedata
from pathlib import Path

import pyarrow as pa
import pytest

from attributary.attribution.filters import FilterCompiler
from attributary.attribution.types import Filter
from attributary.building.source import items_table, read_source
from attributary.bundle.items import ItemRecord, ItemTable
from attributary.bundle.names import names_nobody, same_name
from attributary.delta.items import NewItem
from attributary.delta.journal.records import Former
from attributary.errors import InvalidArgumentError

COMPOSED = "Nadja Gr\u00fcn"
SPELLINGS = (
    COMPOSED,
    unicodedata.normalize("NFD", COMPOSED),
    " Nadja\u00a0 Gru\u0308n",
    "\ufeffNadja Gr\u00fc\u00adn",
    "Nadja\u2009Gr\u00fcn\u200e",
)


def table_of(creators, **more):
    rows = len(creators)
    columns = {
        "id": list(range(rows)), "caption": ["x"] * rows, "creator": list(creators), "creator_url": [""] * rows,
        "licence": ["MIT"] * rows, "uri": [""] * rows, "near_dup_group": list(range(rows)),
    }  # fmt: skip
    return pa.table(columns | more)


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_spellings_of_a_name_are_one(spelling):
    assert same_name(spelling) == COMPOSED
    assert NewItem(1, b"", "x", spelling).creator == COMPOSED
    assert ItemRecord(1, "x", spelling, "", "", "", 0).creator == COMPOSED
    assert Former(frozenset({spelling})).creators == {COMPOSED}


@pytest.mark.parametrize("name", ["Ann", "ANN", "\u0645\u06cc\u200c\u062e", "Nan", "Null"])
def test_what_looks_different_stays_different(name):
    assert same_name(name) == unicodedata.normalize("NFC", name)
    assert not names_nobody(name)


def test_words_for_nobody_name_nobody():
    assert all(map(names_nobody, ("", "unknown", "Unknown", "UNKNOWN", "nan", "NaN", "None", "null", "<NA>")))


def test_a_table_with_two_spellings_has_one_creator_with_all_identifiers():
    ids = pa.array([["isni:1"], ["orcid:2"], []], pa.list_(pa.string()))
    table = ItemTable(table_of([SPELLINGS[1], COMPOSED, "Zoe"], creator_ids=ids))
    assert table.creator_names == [COMPOSED, "Zoe"]
    assert table.creator_of_row.tolist() == [0, 0, 1]
    assert table.ids_of(COMPOSED) == ("isni:1", "orcid:2")
    assert table.facts(0)[2] == table.facts(1)[2] == COMPOSED


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("stored", SPELLINGS[:2])
def test_a_filter_hides_all_that_a_name_made_however_it_is_typed(spelling, stored):
    compiler = FilterCompiler(ItemTable(table_of([stored, COMPOSED, "Zoe"])), 100)
    hidden = Filter(exclude_creators=(spelling,))
    compiler.check(hidden, "filter")
    assert compiler.compile(hidden).rows.tolist() == [2]


def test_a_build_leaves_out_all_that_a_name_made_and_refuses_one_that_nobody_has(tiny_corpus_dir, tmp_path):
    import pyarrow.parquet as pq

    table = pq.read_table(tiny_corpus_dir / "items.parquet")
    names = [SPELLINGS[row % 2] if row < 4 else "Zoe" for row in range(len(table))]
    place = table.column_names.index("creator")
    for entry in tiny_corpus_dir.iterdir():
        (tmp_path / entry.name).symlink_to(entry)
    (tmp_path / "items.parquet").unlink()
    pq.write_table(table.set_column(place, "creator", pa.array(names)), tmp_path / "items.parquet")
    assert len(read_source(tmp_path, (SPELLINGS[2],))) == len(table) - 4
    with pytest.raises(InvalidArgumentError, match="no item has the creator 'Zoë'"):
        read_source(tmp_path, ("Zoë",))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("é" * 257, "has 514 bytes, the limit is 512"),
        ("Ann\nBo", r"must be one line without control characters, got Ann\\nBo"),
        ("\x1b[31mAnn", "must be one line"),
    ],
)
@pytest.mark.parametrize("column", ["creator", "licence"])
def test_a_build_takes_no_name_that_an_addition_may_not_have(name, words, column):
    table = table_of(["Ann", "Bo"])
    table = table.set_column(table.column_names.index(column), column, pa.array(["", name]))
    with pytest.raises(InvalidArgumentError, match=rf"corpus: here: {column} of item 1: {words}"):
        items_table(table, Path("here"))
    table = table.set_column(table.column_names.index(column), column, pa.array(["\u200b", " " + "é" * 256]))
    assert len(items_table(table, Path("here"))) == 2
