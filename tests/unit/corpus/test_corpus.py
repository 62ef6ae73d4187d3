"""Opening, reading and selecting."""

import hashlib
import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

from attributary_train.corpus import Corpus, CorpusError, item_id
from attributary_train.corpus.item import SCHEMA, ids_digest
from tests.support.synthetic import synthetic_corpus


@pytest.fixture
def copy(shapes, tmp_path):
    return shutil.copytree(shapes.root, tmp_path / "copy")


def test_ids_are_63_bits_of_the_key():
    assert item_id("openmoji/1F34E") == int(hashlib.sha256(b"openmoji/1F34E").hexdigest()[:16], 16) // 2
    assert 0 <= item_id("x") < 2**63


def test_items_and_pictures_agree(shapes):
    assert len(shapes) == 40
    for item in shapes:
        image = shapes.image(item.id)
        assert (image.size, image.mode) == ((256, 256), "RGB")
        assert hashlib.sha256(np.asarray(image).tobytes()).hexdigest() == item.sha256
        assert item.id == item_id(item.key)
        assert shapes.item(item.id) is item
    first = shapes[0]
    assert (first.caption, first.concept_id, first.creator) == ("red disc", "red-disc", "Ada Sample")
    assert first.keywords == ("red", "disc")


def test_facts_count_what_is_there(shapes):
    assert shapes.facts["counts"]["items"] == 40
    assert shapes.facts["counts"]["creators"] == 4
    assert shapes.facts["counts"]["concepts"] == shapes.facts["counts"]["concepts_shared"] == 10
    assert shapes.facts["ids_sha256"] == ids_digest(item.id for item in shapes)
    assert pq.read_schema(shapes.root / "items.parquet").remove_metadata() == SCHEMA


def test_building_again_gives_the_same_bytes(shapes, tmp_path):
    again = synthetic_corpus(tmp_path / "again", 40)
    for name in ("items.parquet", "corpus.json"):
        assert (again.root / name).read_bytes() == (shapes.root / name).read_bytes()


def test_select_keeps_order_and_joins_conditions(shapes):
    reds = shapes.select(lambda item: "red" in item.keywords, creators={"Ada Sample", "Ben Probe"})
    assert [item.caption for item in reds] == ["red disc", "red disc", "red ring", "red ring"]
    assert shapes.select(ids=[shapes[3].id, shapes[1].id])[0] is shapes[1]
    assert len(shapes.select(style_sets=["nobody"])) == 0
    assert shapes[5].id not in reds
    reds.image(reds[0].id)


def test_unknown_id_is_named(shapes):
    with pytest.raises(CorpusError, match="no item 7"):
        shapes.image(7)


@pytest.mark.parametrize("name", ["items.parquet", "corpus.json"])
def test_missing_file_is_named(copy, name):
    (copy / name).unlink()
    with pytest.raises(CorpusError, match=name):
        Corpus.open(copy)


@pytest.mark.parametrize("name", ["items.parquet", "corpus.json"])
def test_damaged_file_is_named(copy, name):
    (copy / name).write_bytes(b"{ not a file")
    with pytest.raises(CorpusError, match=name):
        Corpus.open(copy)


def test_other_schema_version_is_refused(copy):
    facts = json.loads((copy / "corpus.json").read_text())
    (copy / "corpus.json").write_text(json.dumps(facts | {"schema_version": 99}))
    with pytest.raises(CorpusError, match="version 99"):
        Corpus.open(copy)


def test_missing_column_is_named(copy):
    table = pq.read_table(copy / "items.parquet").drop_columns(["creator"])
    pq.write_table(table, copy / "items.parquet")
    with pytest.raises(CorpusError, match="columns missing: creator"):
        Corpus.open(copy)


def test_damaged_picture_is_named(copy):
    opened = Corpus.open(copy)
    path = opened.image_path(opened[0].id)
    # The picture may be a link into the cache: replace it, never write through it.
    path.unlink()
    path.write_bytes(b"\x89PNG")
    with pytest.raises(CorpusError, match=path.name):
        opened.image(opened[0].id)
