"""Two draws of a teacher: what the truth's own noise allows."""

import numpy as np
import pytest

from attributary_train.calibration.noise import LEVELS, compare_draws
from attributary_train.errors import CalibrationError
from attributary_train.evaluation.scores import ScoreFile, save_scores


def names(scores):
    return tuple(f"q{at}" for at in range(len(scores)))


def written(path, scores, draw, called=None):
    called = names(scores) if called is None else called
    # What is set to what it would be anyway is no difference.
    settings = {"parameters": "all"} | ({"draw": draw} if draw else {"timesteps": 5})
    save_scores(
        ScoreFile(
            "abu", scores.astype(np.float32), called, np.arange(scores.shape[1]), "w", {"settings": settings}
        ),
        path,
    )
    return path


@pytest.fixture
def truth():
    rng = np.random.default_rng(0)
    return np.where(
        rng.random((8, 400)) < 0.1, rng.exponential(1.0, (8, 400)), 0
    ) + 0.01 * rng.standard_normal((8, 400))


def test_the_largest_of_a_noisy_draw_are_partly_noise(tmp_path, truth):
    rng = np.random.default_rng(1)
    first, second = (truth + 0.5 * rng.standard_normal(truth.shape) for _ in range(2))
    found = compare_draws(written(tmp_path / "a.npz", first, 0), written(tmp_path / "b.npz", second, 1), 400)
    row = found["results"]["levels"][LEVELS.index(3.0)]
    assert row["largest"] > 0.1 and row["total variation"]["value"] > 0.1
    # Of queries that both have, and of one noise nothing is noise.
    quiet = compare_draws(
        written(tmp_path / "a.npz", truth, 0),
        written(tmp_path / "b.npz", truth[3:], 1, names(truth)[3:]),
        400,
    )
    assert quiet["config"]["queries"] == 5
    assert quiet["results"]["levels"][0]["largest"] == pytest.approx(0)


def test_files_that_differ_in_more_than_the_draw_are_refused(tmp_path, truth):
    first = written(tmp_path / "a.npz", truth, 0)
    with pytest.raises(CalibrationError, match=r"differs from .* in settings"):
        other = ScoreFile(
            "abu", truth.astype(np.float32), names(truth), np.arange(400), "w", {"settings": {"draw": 1}}
        )
        save_scores(other, tmp_path / "c.npz")
        compare_draws(first, tmp_path / "c.npz", 400)
    with pytest.raises(CalibrationError, match="the noise is the same"):
        compare_draws(first, written(tmp_path / "b.npz", truth, 0), 400)
    with pytest.raises(CalibrationError, match="has no finished query"):
        compare_draws(first, written(tmp_path / "b.npz", truth[:1], 1, ("other",)), 400)
