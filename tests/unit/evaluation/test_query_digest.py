"""Files of queries use the same names; what the queries are has to be the same, too."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from attributary_train.errors import EvaluationError, TeacherError
from attributary_train.evaluation.from_labels import require_queries
from attributary_train.evaluation.scores import ScoreFile, load_scores, save_scores
from attributary_train.evaluation.scoring import score_to_file
from attributary_train.evaluation.self_consistency import self_consistency
from attributary_train.subject.queries import Queries
from attributary_train.teacher.base import Cost
from attributary_train.teacher.query_digest import query_digests, require_same_queries

IDS = np.array([1, 2, 3], np.int64)


def asked(**changes):
    names = ("test-0000", "test-0001")
    made = Queries(
        names, ("test",) * 2, ("seen",) * 2, ("a cat", "a dog"), (0, 1), torch.zeros(2, 4, 2, 2),
        torch.zeros(2, 3, 2), "w" * 64, 30, 3.0,
    )  # fmt: skip
    return replace(made, **changes)


def scores_of(queries, seed=0, method="m"):
    values = np.random.default_rng(seed).random((len(queries), 3), np.float32)
    return ScoreFile(method, values, queries.names, IDS, queries.weights, {}, query_digests(queries))


@pytest.mark.parametrize(
    "change",
    [
        {"prompts": ("a cat", "a hat")},
        {"seeds": (0, 2)},
        {"latents": torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, 4, 2, 2)},
    ],
)
def test_a_query_of_the_same_name_that_is_another_one_is_refused(change, tmp_path):
    here, other = asked(), asked(**change)
    assert query_digests(here)[0] == query_digests(other)[0]
    assert query_digests(here.take([1])) == query_digests(here)[1:]
    save_scores(scores_of(here), tmp_path / "m.npz")
    file = load_scores(tmp_path / "m.npz")
    assert file.digests == query_digests(here)
    file.aligned(here.names, IDS, query_digests(here))
    with pytest.raises(EvaluationError, match=r"m\.queries: 1 are other ones .*test-0001"):
        file.aligned(other.names, IDS, query_digests(other))
    with pytest.raises(EvaluationError, match="1 are other ones"):
        self_consistency(file, scores_of(other, seed=1))
    with pytest.raises(EvaluationError, match="test-0001 is another one"):
        require_queries(file, other)
    with pytest.raises(TeacherError, match="query test-0001 is another one"):
        require_same_queries(other, dict(zip(here.names, query_digests(here), strict=True)), "labels")


def test_an_older_file_is_taken_by_name(tmp_path):
    save_scores(replace(scores_of(asked()), digests=None), tmp_path / "m.npz")
    file = load_scores(tmp_path / "m.npz")
    assert file.digests is None
    other = asked(seeds=(5, 6))
    file.aligned(other.names, IDS, query_digests(other))
    require_queries(file, other)
    require_same_queries(other, None, "labels")
    with pytest.raises(EvaluationError, match="1 for 2 queries"):
        replace(file, digests=("a",))


class Counted:
    """A method that breaks off at its second chunk until it is told not to."""

    def __init__(self, name, breaks):
        self.name, self.breaks, self.asked = name, breaks, []
        self.cost = Cost(0.0, 0.0, 3, 0.0, 0, 1)

    def fit(self, data, model):
        pass

    def score(self, queries, candidates):
        if self.breaks and self.asked:
            raise KeyboardInterrupt
        self.asked += queries.names
        return np.zeros((len(queries), 3), np.float32)


@pytest.mark.parametrize(
    ("name", "queries", "again"),
    [
        ("m", asked(), ["test-0001"]),
        ("other", asked(), ["test-0000", "test-0001"]),
        ("m", asked(seeds=(5, 6)), ["test-0000", "test-0001"]),
    ],
)
def test_chunks_of_another_method_or_of_other_queries_are_not_taken_up(tmp_path, name, queries, again):
    class Data:
        ids, digest = IDS, "d"

    class Model:
        weights = "w" * 64

    def run(method, queries):
        return score_to_file(
            method, "called", Data(), Model(), queries, tmp_path / "s.npz", settings={}, chunk=1
        )

    with pytest.raises(KeyboardInterrupt):
        run(Counted("m", True), asked())
    method = Counted(name, False)
    assert run(method, queries).digests == query_digests(queries)
    assert method.asked == again
