"""Labels that cover the whole training set are a teacher's scores: the same numbers need not be computed twice."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np

from attributary_train.errors import EvaluationError
from attributary_train.evaluation.scores import ScoreFile, load_scores
from attributary_train.subject.queries import Queries
from attributary_train.teacher.labels import Label, LabelSettings, read_facts, read_labels
from attributary_train.teacher.query_digest import query_digests


def require_queries(truth: ScoreFile, queries: Queries) -> None:
    """Raise `EvaluationError` if the queries of `truth` are other ones in `queries`; unchecked if it has no digests."""
    if truth.digests is None:
        return
    known = dict(zip(queries.names, query_digests(queries), strict=True))
    for name, digest in zip(truth.queries, truth.digests, strict=True):
        if known.get(name, digest) != digest:
            raise EvaluationError(
                f"{truth.method}.queries",
                f"{name} is another one (prompt, seed or picture) in the file of queries",
            )


def scores_of_labels(folder: Path, name: str, splits: Collection[str] = ("test",)) -> ScoreFile:
    """Scores [Q, N] of the queries of `splits` in a label folder; queries that failed are left out, named in `facts`.

    Raises `EvaluationError` if a query was labelled against a part of the training set only, or no query is left.
    """
    facts = read_facts(folder)
    labels = [label for label in read_labels(folder) if label.split in splits]
    good = [label for label in labels if label.error is None]
    if not good:
        raise EvaluationError(str(folder), f"no finished label of {', '.join(sorted(splits))}")
    if not LabelSettings.from_json(facts["settings"]).candidates.everything:
        raise EvaluationError(
            f"{folder}: candidates",
            f"{len(good[0].candidates)} a query, not the whole training set; label with --nearest 0 --outside 0",
        )
    ids = np.sort(good[0].candidates)
    digests = facts.get("query_digests")
    rows = [label.scores[np.argsort(label.candidates)] for label in good]
    return ScoreFile(
        name,
        np.stack(rows).astype(np.float32),
        tuple(label.query for label in good),
        ids,
        facts["weights"],
        {
            "settings": facts["settings"]["teacher"],
            "splits": sorted(splits),
            "failed": [label.query for label in labels if label.error is not None],
        },
        None if digests is None else tuple(digests[label.query] for label in good),
    )


def labels_of(path: Path, queries: Queries, weights: str) -> list[Label]:
    """A teacher's labels, from a label factory's folder or from a score file (.npz) of `evaluate score`.

    A score file's split is that of its queries in `queries`. Raises `TeacherError` or `EvaluationError` for another
    model's, for a damaged file, or for a query that is not in `queries` or another one there.
    """
    if path.is_dir():
        return read_labels(path, weights=weights)
    file = load_scores(path, weights=weights)
    splits = dict(zip(queries.names, queries.splits, strict=True))
    missing = [name for name in file.queries if name not in splits]
    if missing:
        raise EvaluationError(
            str(path), f"{len(missing)} queries are not in the file of queries, e.g. {missing[0]}"
        )
    require_queries(file, queries)
    count = len(file.ids)
    return [
        Label(name, splits[name], file.ids, row, count, None, None, None)
        for name, row in zip(file.queries, file.scores, strict=True)
    ]
