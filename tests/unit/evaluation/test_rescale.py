"""Amounts keep the order of scores, and stand to each other as the formula says."""

from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner

from attributary_train.errors import EvaluationError
from attributary_train.evaluation.rescale import raised, ranked, rescale, sharpened
from attributary_train.evaluation.scores import ScoreFile, load_scores, save_scores
from attributary_train.evaluation.truth_commands import rescale_scores

SCORES = np.array([[0.9, 0.1, -0.2, 0.5, 0.0], [0.0, 0.2, 0.3, -1.0, 0.1]], np.float32)
FILE = ScoreFile("m", SCORES, ("a", "b"), np.arange(5), "w" * 64, {"split": "test"})


def test_sharpened_scores_stand_to_each_other_as_shares_do():
    found = sharpened(SCORES, 0.1)
    assert found.dtype == np.float32 and (np.argsort(found) == np.argsort(SCORES)).all()
    assert found[0, 0] / found[0, 3] == pytest.approx(np.exp(4.0), rel=1e-4)
    assert found.max() == 1.0


def test_raised_scores_count_from_the_median():
    found = raised(SCORES * 1e-9, 2.0)
    assert found[0].tolist() == pytest.approx([1.0, 0.0, 0.0, (0.4 / 0.8) ** 2, 0.0])
    assert raised(np.zeros((1, 3), np.float32), 2.0).tolist() == [[0.0, 0.0, 0.0]]


def test_ranked_scores_keep_nothing_but_the_order():
    found = ranked(SCORES)
    assert found[0].tolist() == pytest.approx([1, 1 / 3, 1 / 5, 1 / 2, 1 / 4])
    assert (ranked(SCORES**3) == found).all()
    assert ranked(np.array([[1.0, 1.0, 0.0]], np.float32))[0].tolist() == pytest.approx(
        [1 / 1.5, 1 / 1.5, 1 / 3]
    )
    told = rescale(FILE, None, None, "order", ranks=True)
    assert told.facts["rescaled"] == {"ranks": True} and (told.scores == found).all()
    with pytest.raises(EvaluationError, match="one of them"):
        rescale(FILE, 0.1, None, "n", ranks=True)


@pytest.mark.parametrize(
    ("temperature", "power", "word"),
    [
        (None, None, "one of them"),
        (0.1, 2.0, "one of them"),
        (0.0, None, "temperature"),
        (None, -1.0, "power"),
    ],
)
def test_settings_that_make_no_sense_are_refused_by_name(temperature, power, word):
    with pytest.raises(EvaluationError, match=word):
        rescale(FILE, temperature, power, "n")


def test_command_writes_a_score_file_of_its_own_name(tmp_path):
    save_scores(FILE, tmp_path / "m.npz")
    words = [
        "--scores",
        tmp_path / "m.npz",
        "--temperature",
        "0.5",
        "--name",
        "sharp",
        "--out",
        tmp_path / "s.npz",
    ]
    answer = CliRunner().invoke(rescale_scores, [str(word) for word in words])
    assert answer.exit_code == 0
    found = load_scores(tmp_path / "s.npz")
    assert found.method == "sharp" and found.facts["rescaled"] == {"temperature": 0.5}
    assert np.allclose(found.scores, sharpened(SCORES, 0.5))


def test_methods_are_combined_by_order_whatever_the_order_of_items(tmp_path):
    from attributary_train.evaluation.rescale import combine

    back = replace(FILE, method="n", scores=-SCORES[:, ::-1].copy(), ids=FILE.ids[::-1].copy())
    both = combine([FILE, back], "both")
    expected = (ranked(SCORES) + ranked(-SCORES)) / 2
    assert np.allclose(both.scores, expected) and both.ids.tolist() == FILE.ids.tolist()
    with pytest.raises(EvaluationError, match="at least 2"):
        combine([FILE], "one")
    with pytest.raises(EvaluationError, match="not of"):
        combine([FILE, replace(FILE, weights="v" * 64)], "two")
