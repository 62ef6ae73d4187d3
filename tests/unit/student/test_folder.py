"""The folder that is handed over: serving reads it, strangers are refused, held-out prompts are not used."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from attributary.building.student import read_student
from attributary.errors import InvalidArgumentError
from attributary_train.errors import StudentError
from attributary_train.student.folder import (
    Handover,
    ids_digest,
    read_facts,
    read_head,
    require_same,
    write_folder,
)
from attributary_train.student.more_pictures import prompts_for_distillation
from attributary_train.student.student_commands import student as command

IDS = np.arange(10, 22)
ABOUT = Handover("compact", "compact", {"a": 1}, "f" * 64, "small", "c" * 64, 9)


@pytest.fixture
def folder(tmp_path):
    for name in ("encoder.onnx", "encoder.int8.onnx", "tokenizer.json"):
        (tmp_path / name).write_bytes(name.encode())
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(len(IDS), 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    write_folder(tmp_path, ABOUT, IDS, vectors, {"w": torch.ones(3)}, {"note": "x"})
    return tmp_path


def test_serving_reads_what_training_wrote(folder):
    found = read_student(folder)
    assert (found.name, found.subject.weights_digest, found.labels_digest) == ("compact", "f" * 64, "c" * 64)
    assert found.ids.tolist() == IDS.tolist() and found.vectors.shape == (12, 8)
    assert found.corpus_ids_digest == ids_digest(IDS)
    assert "encoder.int8.onnx" in read_facts(folder)["files"]


def test_a_file_of_another_student_is_refused(folder):
    (folder / "encoder.onnx").write_bytes(b"another")
    with pytest.raises(InvalidArgumentError, match=r"encoder\.onnx is not of this student"):
        read_student(folder)
    (folder / "head.pt").write_bytes(b"another")
    with pytest.raises(StudentError, match=r"head\.pt: is missing or not the file"):
        read_head(folder)


def test_a_student_of_another_generator_or_corpus_is_refused(folder):
    facts = read_facts(folder)
    require_same(facts, "f" * 64, IDS)
    with pytest.raises(StudentError, match="made for model ffffffffffff, not for 000"):
        require_same(facts, "0" * 64, IDS)
    with pytest.raises(StudentError, match="knows 12 items that are not the 11"):
        require_same(facts, "f" * 64, IDS[:-1])


def test_vectors_that_are_no_unit_rows_are_not_written(tmp_path):
    with pytest.raises(StudentError, match="not all of unit length"):
        write_folder(tmp_path, ABOUT, IDS, np.ones((12, 8), np.float32), {}, {})
    with pytest.raises(StudentError, match=r"shape \(11, 8\) for 12 items"):
        write_folder(tmp_path, ABOUT, IDS, np.ones((11, 8), np.float32), {}, {})


def test_show_says_what_it_is_and_refuses_what_is_none(folder, tmp_path):
    told = CliRunner().invoke(command, ["show", str(folder)])
    assert told.exit_code == 0 and "compact (compact), 8 dimensions, 12 items" in told.output
    facts = json.loads((folder / "student.json").read_text())
    (folder / "student.json").write_text(json.dumps({**facts, "schema_version": 9}))
    refused = CliRunner().invoke(command, ["show", str(folder)])
    assert refused.exit_code == 1 and "schema version 9; this reads 1" in refused.output


def test_prompts_for_distillation_keep_away_from_held_out_queries():
    styles = ["Noto style", "Fluent style"]
    training = [f"thing {at}, {styles[at % 2]}" for at in range(20)]
    held = ["thing 3, Fluent style", "thing 4, Fluent style"]
    made = prompts_for_distillation(training, held, 400)
    texts = {prompt.text for prompt in made}
    assert not texts & set(held)
    assert {prompt.kind for prompt in made} == {"seen", "recombined"}
    assert len({prompt.seed for prompt in made}) == 400
    recombined = {prompt.text for prompt in made if prompt.kind == "recombined"}
    assert recombined and not recombined & set(training)
    others = prompts_for_distillation(
        training, held, 400, others=["new thing, Noto style", held[0], training[0]]
    )
    unseen = {prompt.text for prompt in others if prompt.kind == "unseen"}
    assert unseen == {"new thing, Noto style"}
    with pytest.raises(StudentError, match="none is left"):
        prompts_for_distillation(training[:2], training[:2], 3)
