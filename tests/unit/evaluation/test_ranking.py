"""Measures of rankings against plain definitions, and against SciPy where it has them."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from attributary_train.errors import EvaluationError
from attributary_train.evaluation.agreement import agree
from attributary_train.evaluation.ranking import (
    average_precision_rows,
    count_of,
    ndcg_rows,
    overlap_rows,
    spearman_rows,
    top_rows,
)
from attributary_train.evaluation.scores import ScoreFile
from attributary_train.evaluation.self_consistency import self_consistency


def drawn(seed=0, queries=6, items=40, ties=False):
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=(queries, items))
    predicted = truth + rng.normal(size=truth.shape)
    if ties:
        predicted = np.round(predicted)
    return truth.astype(np.float32), predicted.astype(np.float32)


def dense_average_precision(positive, predicted):
    """Area under the precision-recall steps, threshold by threshold, as scikit-learn defines it."""
    total, recall_before = 0.0, 0.0
    for threshold in sorted(set(predicted.tolist()), reverse=True):
        chosen = predicted >= threshold
        recall = (chosen & positive).sum() / positive.sum()
        total += (recall - recall_before) * (chosen & positive).sum() / chosen.sum()
        recall_before = recall
    return total


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("count", [1, 5, 40])
def test_average_precision_is_that_of_the_definition(ties, count):
    truth, predicted = drawn(ties=ties)
    for row, found in enumerate(average_precision_rows(truth, predicted, count)):
        positive = np.zeros(truth.shape[1], bool)
        positive[np.argsort(-truth[row])[:count]] = True
        assert found == pytest.approx(dense_average_precision(positive, predicted[row]))


def test_average_precision_of_known_lists():
    truth = np.array([[3.0, 2.0, 1.0, 0.0]])
    assert average_precision_rows(truth, truth, 2) == pytest.approx([1.0])
    assert average_precision_rows(truth, -truth, 1) == pytest.approx([1 / 4])
    # One score for all says nothing, and gets what chance gets.
    assert average_precision_rows(truth, np.ones_like(truth), 2) == pytest.approx([2 / 4])


@pytest.mark.parametrize("ties", [False, True])
def test_spearman_is_scipys(ties):
    truth, predicted = drawn(ties=ties)
    wanted = [spearmanr(a, b).statistic for a, b in zip(truth, predicted, strict=True)]
    assert spearman_rows(truth, predicted) == pytest.approx(wanted)
    assert spearman_rows(truth, np.ones_like(truth)).tolist() == [0.0] * len(truth)


def test_ndcg_is_that_of_the_definition():
    truth, predicted = drawn()
    for row, found in enumerate(ndcg_rows(truth, predicted)):
        gains = [max(0.0, float(score) - float(np.median(truth[row]))) for score in truth[row]]
        by_prediction = sorted(range(len(gains)), key=lambda item: -predicted[row][item])
        reached = sum(gains[item] / np.log2(place + 2) for place, item in enumerate(by_prediction))
        ideal = sum(gain / np.log2(place + 2) for place, gain in enumerate(sorted(gains, reverse=True)))
        assert found == pytest.approx(reached / ideal, rel=1e-5)
    assert ndcg_rows(truth, truth) == pytest.approx(1.0)


def test_a_common_offset_changes_nothing():
    truth, predicted = (part.astype(np.float64) for part in drawn())
    for measure in (ndcg_rows, spearman_rows):
        assert measure(truth + 1e3, predicted - 5.0) == pytest.approx(measure(truth, predicted))


def test_overlap_counts_common_items():
    truth, predicted = np.array([[4.0, 3.0, 2.0, 1.0]]), np.array([[4.0, 1.0, 2.0, 3.0]])
    assert overlap_rows(truth, predicted, 2).tolist() == [0.5]
    assert top_rows(predicted, 3).tolist() == [[0, 3, 2]]


def test_fractions_are_of_the_training_set():
    assert [count_of(f, 2800) for f in (0.0042, 0.0085, 0.034)] == [12, 24, 95]
    assert count_of(0.0042, 10) == 1
    for bad in (0.0, 1.0, -1.0):
        with pytest.raises(EvaluationError, match="fraction"):
            count_of(bad, 10)


def test_agreement_of_a_teacher_with_itself_is_whole_and_with_noise_near_chance():
    truth, _ = drawn(queries=40, items=300)
    whole = agree(truth, truth, overlap=True).intervals()
    assert {round(interval.value, 9) for interval in whole.values()} == {1.0}
    noise = agree(truth, np.random.default_rng(9).random(truth.shape)).intervals()
    assert noise["mAP(10)"].value < 0.12
    assert noise["spearman"].low < 0.0 < noise["spearman"].high


def test_shapes_must_agree():
    truth, predicted = drawn()
    with pytest.raises(EvaluationError, match="both must be"):
        average_precision_rows(truth, predicted[:, 1:], 3)
    with pytest.raises(EvaluationError, match="K: 0; must be between 1 and the 40"):
        top_rows(truth, 0)


def test_self_consistency_needs_two_draws_of_one_model():
    truth, again = drawn()
    names, ids = tuple(f"q{at}" for at in range(len(truth))), np.arange(truth.shape[1])
    first = ScoreFile("abu+", truth, names, ids, "w")
    second = ScoreFile("abu+", again, names, ids, "w")
    rows = self_consistency(first, second).rows
    assert {"mAP(1)", "overlap(1)", "spearman"} <= set(rows)
    assert rows["spearman"] == pytest.approx(spearman_rows(truth, again))
    with pytest.raises(EvaluationError, match="same numbers"):
        self_consistency(first, first)
    with pytest.raises(EvaluationError, match="two models"):
        self_consistency(first, ScoreFile("abu+", again, names, ids, "v"))
    with pytest.raises(EvaluationError, match="none in common"):
        self_consistency(first, ScoreFile("abu+", again, tuple(f"r{n}" for n in names), ids, "w"))
