"""Labels against the whole training set are a score file; labels against a part of it are refused."""

import json

import numpy as np
import pytest

from attributary_train.errors import EvaluationError
from attributary_train.evaluation.from_labels import scores_of_labels
from attributary_train.teacher.candidates import CandidateSettings
from attributary_train.teacher.labels import FACTS, SCHEMA_VERSION, Label, LabelSettings, write_shard

IDS = np.array([40, 10, 30], np.int64)
SCORES = np.array([[0.4, 0.1, 0.3], [-4.0, -1.0, -3.0]], np.float32)


def labels_in(folder, candidates):
    folder.mkdir()
    facts = {"schema_version": SCHEMA_VERSION, "weights": "a" * 64}
    facts["settings"] = LabelSettings(candidates=candidates).to_json()
    (folder / FACTS).write_text(json.dumps(facts))
    good = [Label(f"test-{at}", "test", IDS, SCORES[at], 0, 1.0, 0.01, None) for at in range(2)]
    other = Label("train-0", "train", IDS, SCORES[0], 0, 1.0, 0.01, None)
    write_shard(folder, 0, [good[0], other])
    write_shard(folder, 1, [good[1], Label("test-2", "test", IDS[:0], SCORES[0, :0], 0, None, None, "died")])
    return folder


def test_scores_are_sorted_by_item_and_failures_are_named(tmp_path):
    file = scores_of_labels(labels_in(tmp_path / "labels", CandidateSettings(0, 0)), "teacher")
    assert file.queries == ("test-0", "test-1") and file.method == "teacher" and file.weights == "a" * 64
    assert file.ids.tolist() == [10, 30, 40]
    assert file.scores.tolist() == [[SCORES[0, at] for at in (1, 2, 0)], [-1.0, -3.0, -4.0]]
    assert file.facts["failed"] == ["test-2"]
    assert file.facts["settings"]["target_change"] == 0.01


def test_a_part_of_the_training_set_and_an_empty_split_are_refused(tmp_path):
    with pytest.raises(EvaluationError, match="not the whole training set"):
        scores_of_labels(labels_in(tmp_path / "part", CandidateSettings(2, 1)), "teacher")
    with pytest.raises(EvaluationError, match="no finished label of validation"):
        scores_of_labels(labels_in(tmp_path / "all", CandidateSettings(0, 0)), "teacher", ("validation",))
