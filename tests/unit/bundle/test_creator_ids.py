"""Identifiers of creators: one spelling, mistyped ones refused, and what a bundle says of its creators."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from attributary.attribution.open import open_engine
from attributary.attribution.types import Query
from attributary.building import build_bundle
from attributary.bundle.items import ItemTable
from attributary.bundle.names import check_character, identifier, isni, orcid
from attributary.delta.selection import Selection
from attributary.delta.store import Store
from attributary.errors import InvalidArgumentError

ISNI = "isni:0000000121032683"
ORCID = "orcid:0000-0002-1825-0097"


@pytest.mark.parametrize(
    "text",
    [
        "0000000121032683",
        "0000 0001 2103 2683",
        "https://isni.org/isni/0000000121032683",
        "ISNI:0000-0001-2103-2683",
    ],
)
def test_an_isni_has_one_spelling(text):
    assert isni(text) == ISNI


@pytest.mark.parametrize(
    "text", ["0000-0002-1825-0097", "https://orcid.org/0000-0002-1825-0097", " orcid:0000-0002-1825-0097 "]
)
def test_an_orcid_has_one_spelling(text):
    assert orcid(text) == ORCID


def test_the_last_character_may_be_x():
    assert check_character("000000012281955") == "X"
    assert isni("0000 0001 2281 955x") == "isni:000000012281955X"
    assert orcid("0000-0002-1694-233X") == "orcid:0000-0002-1694-233X"


@pytest.mark.parametrize("place", range(16))
def test_every_mistyped_digit_is_found(place):
    digits = list("0000000121032683")
    digits[place] = str((int(digits[place]) + 1) % 10)
    with pytest.raises(InvalidArgumentError, match="is mistyped: with these digits the last would be"):
        isni("".join(digits))


@pytest.mark.parametrize(
    "text",
    ["", "123", "000000012103268", "00000001210326833", "x" * 500, "\u0660" * 16, "0000-0002-1825-0097"],
)
def test_what_is_no_identifier_is_refused(text):
    with pytest.raises(InvalidArgumentError, match="creator_ids"):
        identifier(text)


def ids_table(corpus):
    rows = pq.read_table(corpus / "items.parquet").to_pylist()
    ids = {"Ann": [ISNI], "Bo": [ORCID, ISNI]}
    return pa.Table.from_pylist([{**row, "creator_ids": ids.get(row["creator"], [])} for row in rows])


@pytest.fixture
def known_dir(tiny, tiny_encoder_dir, tmp_path):
    """A bundle whose creators Ann and Bo have identifiers."""
    corpus = tiny.draw_corpus(tmp_path / "corpus", 60)
    pq.write_table(ids_table(corpus), corpus / "items.parquet")
    build_bundle(corpus, tiny_encoder_dir, tmp_path / "bundle", probes=20, workers=1)
    return tmp_path / "bundle"


def test_a_bundle_says_who_its_creators_are(known_dir, picture):
    engine = open_engine(known_dir)
    answer = engine.attribute(Query(image=picture(0)))
    told = {total.creator: total.creator_ids for total in answer.creators}
    assert told["Ann"] == (ISNI,)
    assert told.get("Bo", (ISNI, ORCID)) == (ISNI, ORCID)
    assert told.get("Cy", ()) == ()
    assert {item.creator_ids for item in answer.items if item.creator == "Ann"} <= {(ISNI,)}


def test_identifiers_survive_a_compaction_and_those_of_the_deleted_do_not(known_dir, tiny_encoder_dir):
    with Store(known_dir, open_engine) as store:
        store.delete(Selection(creator="Ann"), who="x", why="opted out")
        store.compact(who="x", why="test")
    items = ItemTable.read(known_dir / "items.parquet")
    assert (items.ids_of("Ann"), items.ids_of("Bo"), items.ids_of("")) == ((), (ISNI, ORCID), ())
    known = (
        pq.read_table(known_dir / "items.parquet")
        .filter(pa.compute.field("withheld"))["creator_ids"]
        .to_pylist()
    )
    assert known
    assert not any(known)


def test_whoever_has_an_identifier_of_the_deleted_and_stays_is_told(known_dir):
    with Store(known_dir) as store:
        assert store.delete(Selection(creator="Ann"), who="x", why="opted out").similar == ("Bo",)
        assert store.delete(Selection(creator="Cy"), who="x", why="opted out").similar == ()


def test_a_column_of_another_type_is_named(tiny, tiny_encoder_dir, tmp_path):
    corpus = tiny.draw_corpus(tmp_path / "corpus", 20)
    table = pq.read_table(corpus / "items.parquet")
    pq.write_table(table.append_column("creator_ids", pa.array([7] * 20)), corpus / "items.parquet")
    with pytest.raises(InvalidArgumentError, match="creator_ids"):
        build_bundle(corpus, tiny_encoder_dir, tmp_path / "bundle", probes=20, workers=1)
