"""Labels as arrays: what stands for what, and what is refused."""

from dataclasses import dataclass, replace

import numpy as np
import pytest

from attributary_train.errors import StudentError
from attributary_train.student import labelled
from attributary_train.student.labelled import from_labels
from attributary_train.teacher.labels import Label


@dataclass
class Data:
    ids: np.ndarray

    def __len__(self):
        return len(self.ids)

    def rows(self, ids):
        where = {int(number): row for row, number in enumerate(self.ids)}
        return np.array([where[int(number)] for number in ids], np.int64)


DATA = Data(np.arange(100, 140))


def label(name="train-0000", count=12, nearest=8, scores=None):
    ids = np.arange(139, 139 - count, -1)
    values = np.linspace(1, 0, count, dtype=np.float32) if scores is None else scores
    return Label(name, "train", ids, values, nearest, 0.1, 0.01, None)


def test_random_candidates_stand_for_the_items_that_were_not_asked_about():
    found = from_labels([label(), label("train-0001")], DATA)
    assert found.rows[0].tolist() == list(range(39, 27, -1))
    assert found.weight[:8].tolist() == [1.0] * 8
    assert found.weight.sum() == pytest.approx(40)
    assert not found.everything


def test_labels_of_everything_have_no_outside():
    found = from_labels([label(count=40, nearest=0)], DATA)
    assert found.everything and found.weight.tolist() == [1.0] * 40


def test_the_digest_follows_the_scores():
    first, same = from_labels([label()], DATA), from_labels([label()], DATA)
    changed = np.linspace(1, 0, 12, dtype=np.float32)
    changed[3] += 1e-3
    assert first.digest == same.digest != from_labels([label(scores=changed)], DATA).digest


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([], "no query is finished"),
        ([label(count=4, nearest=2)], "4 candidates a query; at least 8"),
        ([label(), label(count=10)], "all must be alike"),
        ([label(scores=np.full(12, np.nan, np.float32))], "label of train-0000: .*not finite"),
    ],
)
def test_labels_that_are_refused(labels, words):
    with pytest.raises(StudentError, match=words):
        from_labels(labels, DATA)


def test_nothing_is_fitted_to_labels_of_another_split(monkeypatch, tmp_path):
    kept = [label(), replace(label("test-0000"), split="test")]
    monkeypatch.setattr(labelled, "read_facts", lambda folder: {"data": "d"})
    monkeypatch.setattr(labelled, "read_labels", lambda folder, weights: kept)
    data = Data(DATA.ids)
    data.digest = "d"
    assert labelled.from_folder(tmp_path, data, "w").names == ("train-0000",)
    assert labelled.from_folder(tmp_path, data, "w", "test").names == ("test-0000",)
    with pytest.raises(StudentError, match="split validation: no query is finished"):
        labelled.from_folder(tmp_path, data, "w", "validation")
