"""Bootstrap intervals: repeatable, and as wide as the sample says."""

import numpy as np
import pytest

from attributary_train.errors import EvaluationError
from attributary_train.evaluation.stats import mean_interval, paired_interval, percentile_interval


def test_the_interval_of_a_mean_is_about_two_standard_errors_either_way():
    sample = np.random.default_rng(0).normal(3.0, 2.0, 400)
    found = mean_interval(sample)
    error = sample.std(ddof=1) / np.sqrt(len(sample))
    assert found.value == pytest.approx(sample.mean())
    assert found.low == pytest.approx(sample.mean() - 1.96 * error, abs=0.15 * error)
    assert found.high == pytest.approx(sample.mean() + 1.96 * error, abs=0.15 * error)
    assert mean_interval(sample) == found
    assert mean_interval(sample, seed=1) != found


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    rng = np.random.default_rng(1)
    held = [mean_interval(rng.normal(size=40), draws=400, seed=at) for at in range(300)]
    covered = np.mean([found.low <= 0.0 <= found.high for found in held])
    assert 0.89 < covered < 0.98


def test_pairing_removes_what_the_two_share():
    rng = np.random.default_rng(2)
    shared = rng.normal(0.0, 100.0, 50)
    first, second = shared + 1.0 + rng.normal(0, 0.1, 50), shared
    assert paired_interval(first, second).above(0.9)
    assert not mean_interval(first).above(0.0)


def test_bad_samples_are_named():
    with pytest.raises(EvaluationError, match="is empty"):
        mean_interval([])
    with pytest.raises(EvaluationError, match="1 values are not finite"):
        mean_interval([1.0, np.nan])
    with pytest.raises(EvaluationError, match="2 values against 3"):
        paired_interval([1.0, 2.0], [1.0, 2.0, 3.0])
    with pytest.raises(EvaluationError, match="level"):
        percentile_interval(0.0, np.zeros(3), level=1.0)
