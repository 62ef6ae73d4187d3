"""What an embedding alone tells of strangers, and the flag's statistics chosen without the kind they are judged on."""

import numpy as np
import pytest

from attributary.attribution.pixel_statistics import COUNT
from attributary_train.calibration.embedding_scores import SCORES, embedding_detection
from attributary_train.calibration.left_out import GROUPS, SETS, left_out


def test_every_statistic_is_in_one_group():
    assert sorted(sum(GROUPS.values(), ())) == list(range(COUNT))
    assert all(set(columns) <= set(range(COUNT)) for columns in SETS.values())


def statistics(count, seed):
    return np.random.default_rng(seed).standard_normal((count, COUNT)).astype(np.float32)


def test_a_kind_is_judged_by_what_the_others_choose():
    """One kind has odd borders and all others odd edges of colour: chosen by these, borders are not looked at."""
    foreign = {name: statistics(60, seed) for seed, name in enumerate(("edges", "more edges", "borders"), 2)}
    for name in ("edges", "more edges"):
        foreign[name][:, list(GROUPS["edges of colour"])] += 2.0
    foreign["borders"][:, list(GROUPS["border"])] += 2.0
    told = left_out(statistics(800, 0), statistics(500, 1), foreign, 0.02)
    turn = told["turns"]["borders"]
    assert turn["chosen without it"] == "edges of colour alone" and turn["of the others"] > 0.9
    assert turn["detected"] < 0.2 < told["sets"]["border alone"]["borders"]
    assert turn["false alarms"] < 0.06


def test_what_lies_nearer_to_the_middle_than_any_generated_is_found():
    rng = np.random.default_rng(0)
    made = rng.standard_normal((1200, 32)).astype(np.float32) + 3.0
    middle = np.full((20, 32), 3.0, np.float32) + 0.1 * rng.standard_normal((20, 32)).astype(np.float32)
    rows = embedding_detection(made[:600], made[600:], {"middle": middle}, 0.02)
    found = {row["score"]: row["middle"]["detected"] for row in rows}
    assert found["Mahalanobis distance"] == 0 and found["Mahalanobis distance, not too small"] == 1


@pytest.mark.parametrize("name", [name for name in SCORES if "not too" not in name])
def test_what_lies_off_the_generator_s_embeddings_is_found_and_alarms_are_few(name):
    rng = np.random.default_rng(0)
    axes = rng.standard_normal((24, 96))

    def generated(count):
        made = rng.standard_normal((count, 24)) @ axes + 0.2 * rng.standard_normal((count, 96))
        return (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float32)

    far = rng.standard_normal((50, 96)).astype(np.float32)
    far /= np.linalg.norm(far, axis=1, keepdims=True)
    rows = embedding_detection(generated(600), generated(600), {"far": far, "own": generated(300)}, 0.02)
    row = next(row for row in rows if row["score"] == name)
    assert row["far"]["detected"] == 1 and row["far"]["auroc"] == 1
    assert row["false alarms"] < 0.05 and row["own"]["detected"] < 0.06
