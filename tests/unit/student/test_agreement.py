"""Students beside what they are judged by: one table, aims, strangers refused; a sweep sees validation only."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from attributary_train.errors import EvaluationError, StudentError
from attributary_train.evaluation.scores import ScoreFile
from attributary_train.student.agreement import run_student_agreement
from attributary_train.student.config import StudentConfig
from attributary_train.student.measuring import against_labels, table_row
from attributary_train.student.sweeping import run_sweep

ITEMS, QUERIES = 400, 12
NAMES = tuple(f"test-{at:04d}" for at in range(QUERIES))
KINDS = {name: "seen" if at % 2 else "unseen" for at, name in enumerate(NAMES)}
RNG = np.random.default_rng(0)
TRUTH = RNG.normal(size=(QUERIES, ITEMS)).astype(np.float32) ** 3


def file(method, noise=0.0, weights="a" * 64):
    found = TRUTH + noise * RNG.normal(size=TRUTH.shape).astype(np.float32)
    return ScoreFile(method, found, NAMES, np.arange(ITEMS), weights)


def test_every_method_stands_in_one_table_with_its_interval_and_its_kinds():
    told = run_student_agreement(
        file("abu+"), [file("compact", 0.1)], {"compact": file("compact, no prompt", 3.0)},
        [file("joined", 2.0), file("text", 9.0)], file("abu+ again", 0.2), KINDS,
    )  # fmt: skip
    rows = {row["method"]: row for row in told["results"]["agreement"]}
    assert list(rows) == ["chance", "joined", "text", "compact", "compact, no prompt"]
    order = [rows[name]["mAP(3)"] for name in ("chance", "text", "joined", "compact")]
    assert order == sorted(order)
    assert rows["compact"]["low"] <= rows["compact"]["mAP(3)"] <= rows["compact"]["high"]
    (against,) = told["results"]["differences"]
    assert (against["method"], against["minus"]) == ("compact", "joined") and against["low"] > 0
    kinds = told["results"]["mAP(3) by kind of prompt"]
    assert kinds[0] == {"method": "queries", "seen": 6, "unseen": 6}
    assert told["results"]["teacher against itself"][0]["queries"] == QUERIES
    aims = {aim["name"]: aim for aim in told["aims"]}
    assert aims["mAP(3) of compact"]["met"]
    assert not aims["mAP(3) lost without a prompt, compact"]["met"]
    json.dumps(told)


def test_scores_of_another_model_and_two_of_one_name_are_refused():
    with pytest.raises(EvaluationError, match=r"joined\.weights: bbb"):
        run_student_agreement(file("abu+"), [file("s")], {}, [file("joined", weights="b" * 64)], None, KINDS)
    with pytest.raises(EvaluationError, match="two files of method s"):
        run_student_agreement(file("abu+"), [file("s"), file("s")], {}, [], None, KINDS)


def test_only_labelled_candidates_are_compared(queries, items, labels):
    scores = np.full((len(labels), len(items)), 1e6, np.float32)
    np.put_along_axis(scores, labels.rows, labels.scores, axis=1)
    rows = against_labels(scores, labels)
    assert list(rows) == ["mAP(1)", "spearman", "ndcg"]  # of 40 items all three fractions are one item
    assert rows["mAP(1)"].mean() == 1.0 and rows["spearman"].mean() == pytest.approx(1.0)


def test_a_row_tells_figures_by_kind():
    rows = {"mAP(4)": np.array([1.0, 0.0]), "mAP(9)": np.array([0.5, 0.7]), "spearman": np.array([0.1, 0.3])}
    row = table_row("s", "prompt", rows, ["seen", "unseen"])
    assert (row["student"], row["query"], row["mAP(9)"]) == ("s", "prompt", 0.6)
    assert (row["mAP(9) seen"], row["mAP(9) unseen"]) == (0.5, 0.7)


def test_configurations_are_not_chosen_on_test_queries(labels):
    studio = SimpleNamespace(labelled_queries=lambda _: SimpleNamespace(splits=("test", "validation")))
    with pytest.raises(
        StudentError, match="are of test, validation; configurations are chosen on validation"
    ):
        run_sweep(studio, [StudentConfig("x")], labels, labels, None, print)
