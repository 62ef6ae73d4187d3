"""The chain by its commands: score, plan, retrain, LDS, leave-K-out, agreement; and what it says of bad input."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

from attributary_train.evaluation import opening
from attributary_train.evaluation.commands import evaluate
from attributary_train.evaluation.lds import random_subsets
from attributary_train.evaluation.retrain_pool import Outcome
from attributary_train.evaluation.scores import ScoreFile, load_scores, save_scores
from tests.support.synthetic import synthetic_corpus


def call(*words):
    return CliRunner().invoke(evaluate, [str(word) for word in words], catch_exceptions=False)


def told(*words):
    result = call(*words)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def model_words(subject):
    return ["--subject", subject.subject, "--corpus", subject.corpus.root, "--cache", subject.cache]


@pytest.fixture(scope="module")
def query_words(subject):
    return ["--queries", subject.query_file]


@pytest.fixture
def here(monkeypatch, train_here):
    """Train in this process instead of in workers, which take seconds to start."""

    def retrain(store, runs, **settings):
        todo = store.missing(runs)
        train_here(store, todo)
        failed = {store.digest(run): store.failure(run) for run in runs if store.failure(run)}
        return Outcome(len(todo), 0, failed)

    monkeypatch.setattr(opening, "retrain", retrain)


@pytest.fixture(scope="module")
def score_files(subject, model_words, query_words, tmp_path_factory):
    """random, by the command; and a made-up method that loves what resembles the query's latent."""
    folder = tmp_path_factory.mktemp("scores")
    result = call(
        "score",
        "--method",
        "random",
        *model_words,
        *query_words,
        "--chunk",
        2,
        "--out",
        folder / "random.npz",
    )
    assert result.exit_code == 0, result.output
    queries = subject.queries.split("test")
    near = -((queries.latents[:, None] - subject.data.latents[None]) ** 2).mean(dim=(2, 3, 4))
    file = ScoreFile(
        "near", near.numpy().astype(np.float32), queries.names, subject.data.ids, subject.model.weights
    )
    save_scores(file, folder / "near.npz")
    return folder


def test_score_writes_every_query_against_every_item(subject, score_files):
    file = load_scores(score_files / "random.npz", weights=subject.model.weights)
    assert file.scores.shape == (3, len(subject.data))
    assert file.queries == subject.queries.split("test").names
    assert file.facts["splits"] == ["test"]
    assert file.facts["cost"]["candidates"] == len(subject.data)
    assert sorted(path.name for path in score_files.iterdir()) == ["near.npz", "random.npz"]


def test_a_score_run_goes_on_from_its_chunks(subject, model_words, query_words, tmp_path, monkeypatch):
    from attributary_train.teacher.chance import Chance

    words = [
        "score",
        "--method",
        "random",
        *model_words,
        *query_words,
        "--chunk",
        1,
        "--out",
        tmp_path / "r.npz",
    ]
    scored, whole = [], Chance.score

    def breaks(self, queries, candidates):
        if len(scored) == 2:
            raise KeyboardInterrupt
        scored.append(queries.names)
        return whole(self, queries, candidates)

    monkeypatch.setattr(Chance, "score", breaks)
    assert call(*words).exit_code != 0
    assert not (tmp_path / "r.npz").exists()
    monkeypatch.setattr(Chance, "score", lambda self, q, c: scored.append(q.names) or whole(self, q, c))
    assert call(*words).exit_code == 0
    assert scored == [("test-0000",), ("test-0001",), ("test-0002",)]
    method = Chance()
    method.fit(subject.data, subject.model)
    found = load_scores(tmp_path / "r.npz")
    assert (found.scores == method.score(subject.queries.split("test"), subject.data.ids)).all()


def test_the_chain_from_plan_to_tables(
    subject, model_words, query_words, score_files, tmp_path, here, train_here
):
    store = ["--store", tmp_path / "store"]
    subsets = ["--subsets", 3, "--second", 3, "--seed", 2]
    plan = tmp_path / "plan.json"
    assert "6 runs" in call("lds", *model_words, *subsets, "--plan", plan).output
    result = call("retrain", "--plan", plan, *model_words, *store)
    assert result.output.strip() == "6 runs trained, 0 there before, 0 failed"

    methods = ["--scores", score_files / "random.npz", "--scores", score_files / "near.npz", "--best", "near"]
    grid = ["--timesteps", 5, "--draws", 2]
    report = told("lds", *model_words, *query_words, *methods, *store, *subsets, *grid, "--json")
    assert set(report) == {"script", "machine", "commit", "config", "results", "aims"}
    masks = random_subsets(len(subject.data), 3, seed=2)
    assert [len(run["removed"]) for run in json.loads(plan.read_text())["runs"]] == [24] * 6
    assert {run["steps"] for run in json.loads(plan.read_text())["runs"]} == {subject.recipe.steps // 2}
    assert json.loads(plan.read_text())["runs"][0]["removed"] == subject.data.ids[~masks[0]].tolist()
    assert {row["method"] for row in report["results"]["methods"]} == {"random", "near"}
    for row in report["results"]["methods"]:
        assert -1.0 <= row["both_low"] <= row["both_high"] <= 1.0
    assert [row["minus"] for row in report["results"]["differences"]] == ["random"]
    assert len(report["results"]["ceiling"]) == 2
    assert {aim["name"]: aim["met"] for aim in report["aims"]}["LDS: test queries"] is False
    assert any(aim["name"] == "LDS: near above random" for aim in report["aims"])

    out = tmp_path / "leave.json"
    words = [*model_words, *query_words, "--limit", 2, *methods, *store, *grid, "--fraction", 0.1]
    words += ["--random-runs", 1, "--noise-runs", 1, "--images", 1]
    report = told("leave-k-out", *words, "--json", "--out", out)
    assert json.loads(out.read_text()) == report
    assert report["config"]["K"] == [5]
    assert report["config"]["queries_left_out"] == {"K = 5": []}
    rows = {row["removed"]: row for row in report["results"]["K = 5: methods"]}
    assert set(rows) == {"near", "random", "nothing, other seeds"}
    assert all(row["loss_low"] <= row["loss"] <= row["loss_high"] for row in rows.values())
    differences = report["results"]["K = 5: differences"]
    assert {row["measure"] for row in differences} == {"loss", "mse", "similarity"}


def test_agreement_and_self_consistency(subject, score_files, tmp_path):
    near = load_scores(score_files / "near.npz")
    jitter = np.random.default_rng(0).normal(0, 0.01, near.scores.shape).astype(np.float32)
    again = ScoreFile("near", near.scores + jitter, near.queries, near.ids, near.weights)
    save_scores(again, tmp_path / "again.npz")
    words = ["--truth", score_files / "near.npz", "--scores", score_files / "random.npz", "--json"]
    report = told("agreement", *words)
    assert {row["method"] for row in report["results"]["agreement"]} == {"random"}
    readable = call(*["agreement", *words[:-1]]).output
    assert "mAP(2)" in readable
    report = told(
        "self-consistency", "--first", score_files / "near.npz", "--second", tmp_path / "again.npz", "--json"
    )
    rows = {row["measure"]: row["value"] for row in report["results"]["self-consistency"]}
    assert rows["spearman"] > 0.9


def test_bad_input_is_one_clear_line(subject, model_words, query_words, score_files, tmp_path, monkeypatch):
    opened = opening.Subject.open(subject.subject, subject.corpus.root, subject.cache)
    really = opening.Subject.open
    # Opening takes a second; only the other corpus is opened anew.
    monkeypatch.setattr(
        opening.Subject,
        "open",
        lambda folder, corpus, cache: (
            opened if corpus == subject.corpus.root else really(folder, corpus, cache)
        ),
    )
    other = synthetic_corpus(tmp_path / "other", 20)
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps({"weights": "f" * 64, "runs": []}))
    random = ["--scores", score_files / "random.npz"]
    stray = ScoreFile("stray", np.zeros((3, 2), np.float32), ("test-0000", "test-0001", "test-0002"),
                      subject.data.ids[:2], subject.model.weights)  # fmt: skip
    save_scores(stray, tmp_path / "stray.npz")
    elsewhere = ["--subject", subject.subject, "--corpus", other.root, "--cache", subject.cache]
    out = ["--out", tmp_path / "out.npz"]
    cases = [
        (["score", "--method", "best", *model_words, *query_words, *out], "'best' is unknown; there are"),
        (
            ["score", "--method", "random", *model_words, *query_words, *out, "--set", "sed=1"],
            "these settings",
        ),
        (
            ["score", "--method", "random", *model_words, *query_words, *out, "--set", "seed"],
            "write NAME=VALUE",
        ),
        (["score", "--method", "random", *model_words, *query_words, *out, "--split", "train"], "has none"),
        (["score", "--method", "random", *elsewhere, *query_words, *out], "not in"),
        (["lds", *model_words, *query_words], "scores: no file given"),
        (["lds", *model_words], "--queries is needed"),
        (["lds", *model_words, *query_words, *random, *random], "two files of method random"),
        (
            ["lds", *model_words, *query_words, "--scores", tmp_path / "stray.npz"],
            "2 items that are not the 48",
        ),
        (["leave-k-out", *model_words, *query_words, *random], "no method whose items"),
        (["retrain", "--plan", plan, *model_words], "planned for model ffffffffffff"),
        (["retrain", "--plan", score_files / "near.npz", *model_words], "not a plan"),
        (["agreement", "--truth", subject.query_file, *random], "not a file of scores"),
    ]
    for words, expected in cases:
        result = call(*words)
        assert result.exit_code != 0, words
        assert expected in result.output, (words, result.output)
        assert "Traceback" not in result.output
