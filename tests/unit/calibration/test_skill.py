"""Proper scores: what knows the picture has skill, a constant has none and is never called met."""

import numpy as np
import pytest

from attributary.bundle.manifest import ShareCalibration
from attributary_train.calibration.fit import Target, by_creator
from attributary_train.calibration.held import KINDS
from attributary_train.calibration.report import aims
from attributary_train.calibration.skill import Climatology, ranked, skills
from attributary_train.errors import CalibrationError
from attributary_train.evaluation.shares import Columns, shares_of

ITEMS, QUERIES, REACH = 60, 120, 6
COLUMNS = Columns.of(np.arange(ITEMS))
CREATORS = np.arange(ITEMS) % 7
SHARES = ShareCalibration(0.15, 0.0, 0.55, -1.0, reach=REACH)


def world(seed=0):
    """Cosines and a teacher whose mass follows them; a half of the queries resembles little."""
    rng = np.random.default_rng(seed)
    similarity = (
        0.2 * rng.standard_normal((QUERIES, ITEMS)) + np.where(np.arange(QUERIES) % 2, 0.1, 0.3)[:, None]
    )
    similarity = np.clip(similarity, -1, 1).astype(np.float32)
    mean, nobody = shares_of(similarity, COLUMNS, SHARES)
    drawn = np.stack([rng.dirichlet(30 * row + 1e-9) for row in np.c_[mean, nobody]])
    return similarity, Target(drawn[:, :-1], drawn[:, -1], np.ones_like(mean))


def constant(climatology, similarity):
    order, _ = ranked(similarity, COLUMNS, REACH, np.zeros(similarity.shape))
    told = np.zeros(similarity.shape)
    np.put_along_axis(told, order, np.tile(climatology.profile, (len(told), 1)), axis=1)
    return told, np.full(len(told), 1 - climatology.profile.sum())


def scored(told, diffuse, similarity, target, climatology):
    return skills(similarity, COLUMNS, target, CREATORS, climatology, told, diffuse)


def test_a_constant_has_no_skill_and_what_made_the_mass_has():
    fitted, target = world(0)
    climatology = Climatology.of(fitted, COLUMNS, target, REACH)
    similarity, seen = world(1)
    flat = scored(*constant(climatology, similarity), similarity, seen, climatology)
    for name in ("items, log loss", "items, Brier", "diffuse part, Brier"):
        assert flat[name]["skill"] == pytest.approx(0, abs=1e-9), name
    assert flat["diffuse part, Brier"]["resolution"] == pytest.approx(0, abs=0.01)
    told = scored(*shares_of(similarity, COLUMNS, SHARES), similarity, seen, climatology)
    for name in ("items, log loss", "items, Brier", "creators, Brier", "diffuse part, Brier"):
        assert told[name]["low"] > 0, name
        assert told[name]["low"] <= told[name]["skill"] <= told[name]["high"]


def test_a_brier_score_is_its_parts():
    similarity, target = world(2)
    told, diffuse = shares_of(similarity, COLUMNS, SHARES)
    climatology = Climatology.of(similarity, COLUMNS, target, REACH)
    row = scored(told, diffuse, similarity, target, climatology)["creators, Brier"]
    parts = row["reliability"] - row["resolution"] + row["uncertainty"] + row["within bins"]
    assert parts == pytest.approx(row["score"] / 7)
    assert row["uncertainty"] == pytest.approx(by_creator(target.mass, CREATORS).var())


def test_shares_that_follow_the_numbers_of_items_have_no_skill_for_creators():
    similarity, target = world(3)
    climatology = Climatology.of(similarity, COLUMNS, target, REACH)
    even = np.full(similarity.shape, (1 - climatology.nobody) / ITEMS)
    row = scored(even, np.full(QUERIES, climatology.nobody), similarity, target, climatology)[
        "creators, Brier"
    ]
    assert row["skill"] == pytest.approx(0, abs=1e-9)
    assert row["skill over the same sum by item counts"] == pytest.approx(0, abs=1e-9)


def test_nothing_is_called_met_that_a_constant_meets():
    similarity, target = world(4)
    climatology = Climatology.of(similarity, COLUMNS, target, REACH)
    perfect = scored(target.mass, target.diffuse, similarity, target, climatology)
    flat = scored(*constant(climatology, similarity), similarity, target, climatology)
    # The constant's largest tenth is right to the last digit, as every climatology's is.
    assert flat["largest tenth of the items' shares"]["told"] == pytest.approx(
        flat["largest tenth of the items' shares"]["seen"], rel=0.1
    )
    met = {row["name"]: row["met"] for row in aims({kind: {"skill": perfect} for kind in KINDS})}
    assert [value for name, value in met.items() if "skill" in name] == [True] * 6
    assert [value for name, value in met.items() if "largest" in name] == [False] * 2
    # The order of cosines says something of creators also where every answer's amounts are the same.
    flat_met = aims({kind: {"skill": flat} for kind in KINDS})
    assert not any(row["met"] for row in flat_met)
    assert "not called met" in flat_met[3]["note"]
    # Each stands beside the constant, and creators' skill beside what the order alone says.
    assert [row["constant"] for row in flat_met[:3]] == [0.0] * 3 and flat_met[3]["constant"] is not None
    assert flat_met[1]["rival"] == flat_met[1]["value"]
    assert flat["creators, Brier"]["skill"] == flat["creators, Brier"]["skill of the rank profile"]


@pytest.mark.parametrize(
    "raw", [None, {}, {"profile": [0.5, "x"], "nobody": 0.2}, {"profile": [0.8, 0.9], "nobody": 0.2}]
)
def test_a_calibration_without_a_climatology_is_refused(raw):
    with pytest.raises(CalibrationError, match="fit it again"):
        Climatology.read(raw)


def test_a_climatology_comes_back_from_json():
    similarity, target = world(5)
    made = Climatology.of(similarity, COLUMNS, target, REACH)
    again = Climatology.read(made.as_json())
    assert np.allclose(again.profile, made.profile, atol=1e-6) and len(again.profile) == REACH
    assert (np.diff(made.profile) <= 0).all()
