"""Labels as arrays: which rows of the training set each query was scored against, and what the teacher said."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from attributary_train.errors import StudentError
from attributary_train.evaluation.scores import ScoreFile, load_scores
from attributary_train.subject.data import SubjectData
from attributary_train.subject.queries import Queries
from attributary_train.teacher.labels import Label, read_facts, read_labels
from attributary_train.teacher.query_digest import query_digests

# Fewer say too little about who is more influential than whom.
MIN_CANDIDATES = 8


@dataclass(frozen=True)
class Labelled:
    """What the teacher said about Q queries.

    names: query names; rows: int64 [Q, C], positions in the training set; scores: float32 [Q, C], larger = more
    influential; nearest: how many leading candidates of a row were chosen by similarity (C: the whole training set);
    items: N; digest: SHA-256 of all of it.
    """

    names: tuple[str, ...]
    rows: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float32]
    nearest: int
    items: int
    digest: str

    def __len__(self) -> int:
        return len(self.names)

    @property
    def everything(self) -> bool:
        """Whether every item was scored."""
        return bool(self.rows.shape[1] == self.items)

    @property
    def weight(self) -> npt.NDArray[np.float32]:
        """How many items of the training set each candidate stands for, float32 [C]: 1 for the nearest; a random one
        stands for its share of the rest."""
        count = self.rows.shape[1]
        outside = count - self.nearest
        weight = np.ones(count, np.float32)
        if outside > 0:
            weight[self.nearest :] = (self.items - self.nearest) / outside
        return weight

    def take(self, at: Sequence[int] | npt.NDArray[np.int64]) -> Labelled:
        """The labels of some queries."""
        pick = np.asarray(at, np.int64)
        return _labelled(
            [self.names[row] for row in pick], self.rows[pick], self.scores[pick], self.nearest, self.items
        )


def from_folder(folder: Path, data: SubjectData, weights: str, split: str = "train") -> Labelled:
    """The finished labels of one split in a label factory's folder, which may hold several: nothing is fitted to the
    others. Failed queries are left out.

    Raises `TeacherError` for labels of another model, `StudentError` for another training set or for none finished.
    """
    facts = read_facts(folder)
    found = read_labels(folder, weights=weights)
    if facts["data"] != data.digest:
        raise StudentError(
            str(folder), f"labels of training set {facts['data'][:12]}, not of {data.digest[:12]}"
        )
    finished = [label for label in found if label.error is None and label.split == split]
    return from_labels(finished, data, f"{folder}, split {split}")


def from_labels(labels: Sequence[Label], data: SubjectData, where: str = "labels") -> Labelled:
    """Labels in memory; all must have as many candidates, at least `MIN_CANDIDATES`."""
    if not labels:
        raise StudentError(where, "no query is finished")
    counts = {(len(label.candidates), label.nearest) for label in labels}
    if len(counts) > 1:
        raise StudentError(
            where, f"queries have {sorted(counts)} (candidates, nearest ones); all must be alike"
        )
    ((count, nearest),) = counts
    if count < MIN_CANDIDATES:
        raise StudentError(where, f"{count} candidates a query; at least {MIN_CANDIDATES} are needed")
    rows = np.stack([data.rows(label.candidates) for label in labels])
    scores = np.stack([label.scores for label in labels])
    whole = count == len(data)
    return _labelled([label.query for label in labels], rows, scores, count if whole else nearest, len(data))


def from_scores(file: ScoreFile, data: SubjectData) -> Labelled:
    """A score file of a method that was asked about every item."""
    scores = file.aligned(file.queries, data.ids)
    rows = np.broadcast_to(np.arange(len(data)), scores.shape)
    return _labelled(file.queries, np.ascontiguousarray(rows), scores, len(data), len(data))


def from_score_files(paths: Sequence[Path], data: SubjectData, weights: str, queries: Queries) -> Labelled:
    """Several score files' lists below each other; a query in two of them has two.

    Raises `EvaluationError` for a file of another model or training set, `StudentError` for a query that is not among
    the training queries, or is another one of the same name.
    """
    if not paths:
        raise StudentError("scores", "no file given")
    known = {
        name: digest
        for name, split, digest in zip(queries.names, queries.splits, query_digests(queries), strict=True)
        if split == "train"
    }
    parts = []
    for path in paths:
        file = load_scores(path, weights=weights)
        strange = [name for name in file.queries if name not in known]
        if strange:
            raise StudentError(str(path), f"{len(strange)} are no training queries, e.g. {strange[0]}")
        file.aligned(file.queries, data.ids, [known[name] for name in file.queries])
        parts.append(from_scores(file, data))
    return _labelled(
        [name for part in parts for name in part.names],
        np.concatenate([part.rows for part in parts]),
        np.concatenate([part.scores for part in parts]),
        len(data),
        len(data),
    )


def rows_of(labelled: Labelled, queries: Queries) -> npt.NDArray[np.int64]:
    """Positions in `queries` of the labelled ones; raises `StudentError` naming one that is missing."""
    where = {name: row for row, name in enumerate(queries.names)}
    missing = [name for name in labelled.names if name not in where]
    if missing:
        raise StudentError("queries", f"{len(missing)} labelled ones are not in the file, e.g. {missing[0]}")
    return np.array([where[name] for name in labelled.names], np.int64)


def _labelled(
    names: Sequence[str],
    rows: npt.NDArray[np.int64],
    scores: npt.NDArray[np.float32],
    nearest: int,
    items: int,
) -> Labelled:
    if not np.isfinite(scores).all():
        bad = int(np.flatnonzero(~np.isfinite(scores).all(axis=1))[0])
        raise StudentError(f"label of {names[bad]}", "has a score that is not finite")
    digest = hashlib.sha256("\n".join(names).encode())
    digest.update(np.ascontiguousarray(rows).tobytes())
    digest.update(np.ascontiguousarray(scores).tobytes())
    return Labelled(tuple(names), rows, scores, nearest, items, digest.hexdigest())
