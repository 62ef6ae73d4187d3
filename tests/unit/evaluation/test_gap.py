"""How much of the way from features to the teacher a method covers."""

import numpy as np
import pytest

from attributary_train.errors import EvaluationError
from attributary_train.evaluation.gap import best_features, gap_closed
from attributary_train.evaluation.leave_k_out import LeaveKOut, Removal
from attributary_train.evaluation.tables import removal_tables


def removal(rise):
    rise = np.asarray(rise, float)
    return Removal(rise, np.zeros_like(rise), np.ones_like(rise))


FEATURES = removal([0.1, 0.2, 0.15, 0.1])
TEACHER = removal([0.3, 0.5, 0.35, 0.4])


def test_half_of_the_way_is_half():
    half = removal((FEATURES.loss + TEACHER.loss) / 2)
    found = gap_closed(TEACHER, FEATURES, half)
    assert found.value == pytest.approx(0.5) and found.low == pytest.approx(0.5) == found.high
    assert gap_closed(TEACHER, FEATURES, TEACHER).value == 1
    assert gap_closed(TEACHER, FEATURES, FEATURES).value == 0


def test_a_gap_that_may_be_none_says_nothing():
    unsure = removal([0.3, 0.1, 0.2, 0.05])
    found = gap_closed(unsure, FEATURES, TEACHER)
    assert (found.low, found.high) == (-np.inf, np.inf)
    with pytest.raises(EvaluationError, match="not ahead of the features"):
        gap_closed(FEATURES, TEACHER, TEACHER)


def test_the_report_names_the_best_features_and_every_pair():
    removals = {
        "random": removal([0.0, 0.01, 0, 0]),
        "image": removal([0.05, 0.1, 0.1, 0.1]),
        "joined": FEATURES,
        "abu+": TEACHER,
        "student": removal((FEATURES.loss + TEACHER.loss) / 2),
    }
    assert best_features(removals, ("image", "joined", "text")) == "joined"
    assert best_features(removals, ("text",)) is None
    tables = removal_tables(LeaveKOut(9, removals, {}, 0.001), "abu+")
    (row,) = tables["gap"]
    assert (row["method"], row["from"], row["to"], row["value"]) == ("student", "joined", "abu+", 0.5)
    assert len(tables["differences of dL"]) == 10
    assert [row["abu+"] for row in tables["queries"]] == TEACHER.loss.tolist()
