"""The student that is committed makes a bundle, and that bundle says much of what the teacher says."""

import json
from pathlib import Path

import pytest

from attributary.attribution.open import open_engine
from attributary.attribution.types import Options, Query
from attributary.building import build_from_student

ROOT = Path(__file__).resolve().parents[2]
STUDENT, QUERIES = ROOT / "models" / "student", ROOT / "models" / "demo-queries"


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    out = tmp_path_factory.mktemp("committed") / "bundle"
    build_from_student(STUDENT, STUDENT / "items.parquet", QUERIES, out)
    return open_engine(out)


def test_the_demos_answers_share_their_head_with_the_teacher(engine):
    asked = json.loads((QUERIES / "queries.json").read_text())["queries"]
    common = []
    for entry in (entry for entry in asked if entry["generated"]):
        query = Query(image=(QUERIES / entry["file"]).read_bytes(), prompt=entry["prompt"])
        answer = engine.attribute(query, Options(top_k=10))
        named = [item.id for item in answer.items]
        common.append(len(set(named) & set(entry["expected"])))
        total = sum(item.share for item in answer.items) + answer.diffuse_share
        assert 0.0 <= total <= 1.0 + 1e-5
    # Ten items at random out of 1,160 have 0.1 in common with the teacher's ten.
    assert len(common) == 10 and sum(common) / len(common) >= 5


def test_pictures_that_no_generator_made_are_flagged_and_generated_ones_are_not(engine):
    asked = json.loads((QUERIES / "queries.json").read_text())["queries"]
    for entry in asked:
        query = Query(image=(QUERIES / entry["file"]).read_bytes(), prompt=entry["prompt"])
        assert engine.attribute(query, Options(top_k=3)).out_of_distribution != entry["generated"], entry[
            "file"
        ]
