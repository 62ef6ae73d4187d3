"""Score files: what does not fit together is named, not computed with."""

import numpy as np
import pytest

from attributary_train.errors import EvaluationError
from attributary_train.evaluation.scores import ScoreFile, load_scores, save_scores


def made(**changes):
    given = {
        "method": "m",
        "scores": np.arange(6, dtype=np.float32).reshape(2, 3),
        "queries": ("test-0000", "test-0001"),
        "ids": np.array([30, 10, 20]),
        "weights": "a" * 64,
        "facts": {"settings": {"seed": 1}},
    }
    return ScoreFile(**{**given, **changes})


def test_a_file_comes_back_as_it_was(tmp_path):
    save_scores(made(), tmp_path / "deep" / "m.npz")
    again = load_scores(tmp_path / "deep" / "m.npz", weights="a" * 64)
    assert (again.method, again.queries, again.facts) == ("m", made().queries, made().facts)
    assert again.scores.dtype == np.float32
    assert (again.scores == made().scores).all()
    assert again.ids.tolist() == [30, 10, 20]
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["m.npz"]


def test_aligned_reorders_queries_and_items():
    found = made().aligned(["test-0001"], np.array([10, 20, 30]))
    assert found.tolist() == [[4.0, 5.0, 3.0]]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"scores": np.zeros((2, 4), np.float32)}, r"m\.scores: shape \(2, 4\)"),
        ({"scores": np.zeros((2, 3))}, "float64; must be float32"),
        ({"scores": np.array([[0, 1, 2], [0, np.nan, 1]], np.float32)}, "1 values are not finite.*test-0001"),
        ({"queries": ("a", "a")}, "queries: an entry is there twice"),
        ({"ids": np.array([1, 1, 2])}, "ids: an entry is there twice"),
        ({"method": ""}, "has no name"),
    ],
)
def test_parts_that_do_not_fit_are_named(change, words):
    with pytest.raises(EvaluationError, match=words):
        made(**change)


def test_what_is_missing_is_named():
    with pytest.raises(EvaluationError, match=r"1 are missing, e\.g\. test-0009"):
        made().aligned(["test-0000", "test-0009"], made().ids)
    with pytest.raises(EvaluationError, match="3 items that are not the 4"):
        made().aligned(["test-0000"], np.array([10, 20, 30, 40]))


def test_bad_files_are_named(tmp_path):
    path = tmp_path / "m.npz"
    with pytest.raises(EvaluationError, match="not a file of scores"):
        load_scores(path)
    save_scores(made(), path)
    with pytest.raises(EvaluationError, match="scores of model aaaaaaaaaaaa, not of bbbbbbbbbbbb"):
        load_scores(path, weights="b" * 64)
    raw = path.read_bytes()
    for damaged in (b"", raw[: len(raw) // 2], b"not a zip" * 9):
        path.write_bytes(damaged)
        with pytest.raises(EvaluationError, match="not a file of scores"):
            load_scores(path)
    np.savez(path, scores=made().scores)
    with pytest.raises(EvaluationError, match="not a file of scores"):
        load_scores(path)


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(EvaluationError, match="cannot be written"):
        save_scores(made(), tmp_path / "file" / "m.npz")
