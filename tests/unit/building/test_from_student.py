"""A bundle from a student: exactly its items and vectors, and every part that does not belong is refused by name."""

import importlib.util
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from attributary.attribution.open import open_engine
from attributary.attribution.types import Options, Query
from attributary.building import build_from_student
from attributary.building.source import read_rows
from attributary.building.student import read_student
from attributary.bundle.manifest import MANIFEST, Manifest
from attributary.bundle.parse import parse
from attributary.delta.entry import Terms
from attributary.delta.items import NewItem
from attributary.delta.selection import Selection
from attributary.delta.store import Store
from attributary.errors import InvalidArgumentError, PreconditionError

_SUPPORT = Path(__file__).parents[2] / "support" / "students.py"
_spec = importlib.util.spec_from_file_location("students", _SUPPORT)
students = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(students)


@pytest.fixture(scope="module")
def made(tiny_bundle_dir, tiny_encoder_dir, tmp_path_factory):
    ids, vectors = students.vectors_of(tiny_bundle_dir)
    # Every third item, last first: a student has its own order.
    rows = np.arange(0, len(ids), 3)[::-1]
    return students.write_student(
        tmp_path_factory.mktemp("students") / "one", tiny_encoder_dir, ids[rows], vectors[rows]
    )


@pytest.fixture(scope="module")
def asked(picture, tmp_path_factory):
    return students.write_queries(
        tmp_path_factory.mktemp("asked") / "queries", [picture(number) for number in (1, 4, 7, 30)]
    )


@pytest.fixture
def student(made, tmp_path):
    return Path(shutil.copytree(made, tmp_path / "student"))


def test_the_generator_has_a_name_for_people(made, asked, tiny_corpus_dir, tmp_path):
    report = build_from_student(
        made, tiny_corpus_dir, asked, tmp_path / "b", generator="emoji reference generator"
    )
    subject = report.manifest.subject
    assert (subject.id, subject.weights_digest) == ("emoji reference generator", students.WEIGHTS)


def test_holds_the_student_s_items_and_vectors(made, asked, tiny_corpus_dir, tmp_path):
    report = build_from_student(made, tiny_corpus_dir, asked, tmp_path / "bundle")
    engine = open_engine(tmp_path / "bundle")
    manifest, folder = report.manifest, read_student(made)
    assert manifest.item_count == len(folder.ids) == 100
    assert [engine.bundle.items.id_of(row) for row in range(100)] == folder.ids.tolist()
    assert np.array_equal(engine.bundle.vectors, folder.vectors)
    assert (manifest.subject.id, manifest.subject.weights_digest) == ("drawn shapes", students.WEIGHTS)
    assert manifest.student == "fake" and manifest.notes["student_digest"] == folder.digest
    assert manifest.notes["student_labels_digest"] == "3" * 64
    assert manifest.notes["calibration_labels_digest"] == "4" * 64
    assert json.loads(manifest.notes["measured"]) == {"agreement": {"spearman": 0.5}}
    assert manifest.calibration.image == students.SHARES
    # Shares compete among at least as many candidates as they were calibrated with.
    assert manifest.index.candidates >= 50
    answer = engine.attribute(Query(embedding=folder.vectors[5].astype(np.float32)), Options(top_k=3))
    assert answer.items[0].id == folder.ids[5]


def test_needs_no_picture_of_an_item(made, asked, tiny_corpus_dir, tmp_path):
    alone = shutil.copyfile(tiny_corpus_dir / "items.parquet", tmp_path / "items.parquet")
    report = build_from_student(made, Path(alone), asked, tmp_path / "bundle")
    assert report.manifest.item_count == 100


def without(name):
    def change(bundle):
        raw = json.loads((bundle / MANIFEST).read_text())
        del raw["bundle_id"], raw["delta"], raw["vectors_made_by"]
        if name == "its notes":
            del raw["notes"]["student_digest"]
        elif name == "its generator":
            raw["subject"]["weights_digest"] = ""
        shutil.rmtree(bundle / "delta")
        parse(Manifest, raw).write(bundle)

    return change


@pytest.mark.parametrize("older", [None, "the entry", "its notes", "its generator"])
def test_items_are_not_added_to_vectors_that_were_trained(
    made, asked, tiny_corpus_dir, picture, tmp_path, older
):
    """The encoder would put them elsewhere; deleting is possible."""
    build_from_student(made, tiny_corpus_dir, asked, tmp_path / "bundle")
    assert Manifest.read(tmp_path / "bundle").vectors_made_by == "trained"
    if older:
        without(older)(tmp_path / "bundle")
    new = NewItem(1, picture(100), caption="a red ellipse", creator="Eve")
    with Store(tmp_path / "bundle", open_engine) as store:
        gone = store.snapshot.bundle.items.record(1)
        store.delete(Selection(ids=(gone.id,)), who="me", why="to be added back")
        back = NewItem(gone.id, picture(1), gone.caption, gone.creator, licence=gone.licence, uri=gone.uri)
        for added in (new, back):
            with pytest.raises(PreconditionError, match="vectors were trained with student fake") as caught:
                store.add([added], who="me", why="new")
            assert caught.value.subject == "bundle"
            assert "attributary-train student train" in str(caught.value)
            store.delete(Selection(creator="Ann"), who="me", why="opted out")
            store.compact(who="me", why="tidy")
        assert len(store.history) == 3


def test_items_are_added_to_vectors_that_the_encoder_made(student, asked, tiny_corpus_dir, picture, tmp_path):
    """A student may say that its encoder places items, too."""
    students.write_facts(student, vectors_made_by="encoder")
    build_from_student(student, tiny_corpus_dir, asked, tmp_path / "bundle")
    with Store(tmp_path / "bundle", open_engine) as store:
        store.add([NewItem(1, picture(100), caption="a red ellipse", creator="Eve")], who="me", why="new")
        assert store.snapshot.item_count == 101
    engine = open_engine(tmp_path / "bundle")
    answer = engine.attribute(Query(image=picture(100), prompt="a red ellipse"), Options(top_k=1))
    assert answer.items[0].id == 1 and answer.items[0].similarity == pytest.approx(1, abs=2e-3)


def test_an_item_deleted_and_added_back_keeps_its_shares(student, asked, tiny_corpus_dir, picture, tmp_path):
    """Where the encoder places items, one that comes back is where it was, and its own picture still finds it first."""
    students.write_facts(student, vectors_made_by="encoder")
    build_from_student(student, tiny_corpus_dir, asked, tmp_path / "bundle")
    engine, before = open_engine(tmp_path / "bundle"), {}
    queries = {
        (n, text): Query(image=picture(n), prompt=text) for n in (294, 2, 30) for text in ("", "a blue star")
    }
    for key, query in queries.items():
        before[key] = engine.attribute(query, Options(top_k=50))
    with Store(tmp_path / "bundle", open_engine) as store:
        was = store.snapshot.bundle.items.record(1)
        store.delete(Selection(ids=(was.id,)), who="me", why="by mistake")
        # Numbers are not used again. Item 1000 + n shows picture n.
        back = NewItem(
            9**9, picture(was.id - 1000), was.caption, was.creator, licence=was.licence, uri=was.uri
        )
        may = Terms(bring_back=True)
        assert store.add([back], who="me", why="back again", terms=may).outcomes == [None]
    engine, number = open_engine(tmp_path / "bundle"), {9**9: was.id}
    for key, query in queries.items():
        after = engine.attribute(query, Options(top_k=50))
        assert number.get(after.items[0].id, after.items[0].id) == before[key].items[0].id
        shares = {item.id: item.share for item in before[key].items}
        for item in after.items:
            item = replace(item, id=number.get(item.id, item.id))
            assert item.share == pytest.approx(shares.get(item.id, 0.0), abs=5e-3)
        assert after.withheld_share == pytest.approx(0.0, abs=5e-3)


def test_an_older_bundle_of_no_student_takes_items(tiny_bundle_dir, picture, tmp_path):
    bundle = Path(shutil.copytree(tiny_bundle_dir, tmp_path / "bundle"))
    raw = json.loads((bundle / MANIFEST).read_text())
    del raw["bundle_id"], raw["delta"], raw["vectors_made_by"]
    shutil.rmtree(bundle / "delta")
    parse(Manifest, raw).write(bundle)
    with Store(bundle) as store:
        new = NewItem(1, picture(100), caption="a red ellipse", creator="Eve")
        assert store.add([new], who="me", why="new").outcomes == [None]


def test_what_training_alone_needs_may_be_left_behind(student, asked, tiny_corpus_dir, tmp_path):
    facts = json.loads((student / "student.json").read_text())
    facts["files"]["head.pt"] = {"sha256": "0" * 64}
    (student / "student.json").write_text(json.dumps(facts))
    assert build_from_student(student, tiny_corpus_dir, asked, tmp_path / "bundle").manifest.item_count == 100


def other_encoder(student, tiny):
    tiny.write_encoder(student, seed=9)


def other_vectors(student, tiny):
    vectors = np.load(student / "vectors.npy")
    np.save(student / "vectors.npy", vectors[::-1])


def other_ids(student, tiny):
    np.save(student / "ids.npy", np.load(student / "ids.npy")[::-1])


def a_row_of_zeros(student, tiny):
    vectors = np.load(student / "vectors.npy")
    vectors[7] = 0
    np.save(student / "vectors.npy", vectors)
    students.write_facts(student)


def a_row_of_nan(student, tiny):
    vectors = np.load(student / "vectors.npy")
    vectors[3, 2] = np.nan
    np.save(student / "vectors.npy", vectors)
    students.write_facts(student)


def too_few_rows(student, tiny):
    np.save(student / "vectors.npy", np.load(student / "vectors.npy")[:-1])
    students.write_facts(student)


def float32_rows(student, tiny):
    np.save(student / "vectors.npy", np.load(student / "vectors.npy").astype(np.float32))
    students.write_facts(student)


def an_id_twice(student, tiny):
    ids = np.load(student / "ids.npy")
    ids[1] = ids[0]
    np.save(student / "ids.npy", ids)
    students.write_facts(student)


def an_id_of_no_item(student, tiny):
    ids = np.load(student / "ids.npy")
    ids[1] = 7
    np.save(student / "ids.npy", ids)
    students.write_facts(student)


def another_size(student, tiny):
    vectors = np.load(student / "vectors.npy").astype(np.float32)[:, :-8]
    np.save(
        student / "vectors.npy",
        (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16),
    )
    students.write_facts(student)
    students.write_calibration(student)


def calibration_of_another_student(student, tiny):
    students.write_calibration(student, vectors_digest="5" * 64)


def calibration_for_another_generator(student, tiny):
    students.write_calibration(student, weights="6" * 64)


def no_calibration(student, tiny):
    (student / "calibration.json").unlink()


def a_temperature_of_zero(student, tiny):
    path = student / "calibration.json"
    path.write_text(path.read_text().replace('"temperature": 0.05', '"temperature": 0'))


def no_name(student, tiny):
    students.write_facts(student, name=None)


def no_tokenizer(student, tiny):
    (student / "tokenizer.json").unlink()


def vectors_that_are_not_listed(student, tiny):
    facts = json.loads((student / "student.json").read_text())
    del facts["files"]["vectors.npy"]
    (student / "student.json").write_text(json.dumps(facts))


def another_int8_encoder(student, tiny):
    shutil.copyfile(student / "encoder.onnx", student / "encoder.int8.onnx")
    facts = json.loads((student / "student.json").read_text())
    facts["files"]["encoder.int8.onnx"] = {"sha256": "0" * 64}
    (student / "student.json").write_text(json.dumps(facts))


def a_later_schema(student, tiny):
    students.write_facts(student, schema_version=2)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (other_encoder, r"student: .*encoder\.onnx is not of this student"),
        (other_vectors, r"student: .*vectors\.npy is not of this student"),
        (other_ids, r"student: .*ids\.npy is not of this student"),
        (a_row_of_zeros, r"vectors\.npy: 1 rows are not of unit length, the first is row 7"),
        (a_row_of_nan, r"vectors\.npy: 1 rows are not of unit length, the first is row 3"),
        (too_few_rows, r"vectors\.npy must be float16 \[100, D\], is float16 \[99"),
        (float32_rows, r"vectors\.npy must be float16 \[100, D\], is float32"),
        (an_id_twice, r"ids\.npy holds an id twice"),
        (an_id_of_no_item, r"corpus: .* lacks 1 of 100 items, e\.g\. id 7"),
        (another_size, r"student: vectors have 201 dimensions, the encoder 209"),
        (calibration_of_another_student, r"calibration: was fitted with vectors 555555555555"),
        (calibration_for_another_generator, r"calibration: was fitted with generator 666666666666"),
        (no_calibration, r"calibration: .*calibration\.json cannot be read"),
        (a_temperature_of_zero, r"calibration: .*temperature 0"),
        (no_name, r"student\.json: name is missing"),
        (no_tokenizer, r"tokenizer\.json does not exist"),
        (vectors_that_are_not_listed, r"student\.json does not list vectors\.npy"),
        (another_int8_encoder, r"encoder\.int8\.onnx is not of this student"),
        (a_later_schema, r"schema version 2; this build reads 1"),
    ],
)
def test_what_does_not_belong_is_refused_by_name(
    spoil, message, student, asked, tiny, tiny_corpus_dir, tmp_path
):
    spoil(student, tiny)
    with pytest.raises(InvalidArgumentError, match=message):
        build_from_student(student, tiny_corpus_dir, asked, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "queries: .*cannot be read: KeyError"),
        ('{"queries": []}', "names no generated picture"),
        (
            '{"queries": [{"file": "gone.png", "prompt": "", "generated": true}]}',
            r"gone\.png: cannot be read",
        ),
    ],
)
def test_queries_that_cannot_be_asked(text, message, made, tiny_corpus_dir, tmp_path):
    (tmp_path / "queries.json").write_text(text)
    with pytest.raises(InvalidArgumentError, match=message):
        build_from_student(made, tiny_corpus_dir, tmp_path, tmp_path / "bundle")


def test_rows_come_in_the_order_of_the_ids(tiny_corpus_dir):
    assert read_rows(tiny_corpus_dir, np.array([1005, 1001]))["id"].to_pylist() == [1005, 1001]


def test_an_existing_bundle_is_replaced_only_when_forced(made, asked, tiny_corpus_dir, tmp_path):
    build_from_student(made, tiny_corpus_dir, asked, tmp_path / "bundle")
    with pytest.raises(FileExistsError):
        build_from_student(made, tiny_corpus_dir, asked, tmp_path / "bundle")
    build_from_student(made, tiny_corpus_dir, asked, tmp_path / "bundle", force=True, version="2")
    assert open_engine(tmp_path / "bundle").bundle.manifest.version == "2"
