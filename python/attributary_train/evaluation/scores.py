"""A method's answer as a file: one matrix of scores with everything that says what it is about.

Every protocol reads methods from such files, so that a score is computed once and every method is judged on the very
same queries and items.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from attributary_train.errors import EvaluationError
from attributary_train.files import reading, whole

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class ScoreFile:
    """Scores of one method on some queries and the whole training set.

    method: its name in tables; scores: float32 [Q, N], finite, larger = more influential; queries: Q unique names as in
    `Queries.names`; ids: int64 [N], unique item ids; weights: SHA-256 of the model that made the queries and was asked
    about; facts: plain JSON (settings, cost, split); digests: what each query is, as `query_digests` says, or None in
    older files, which are taken by name alone. Raises `EvaluationError` if the parts do not fit together.
    """

    method: str
    scores: npt.NDArray[np.float32]
    queries: tuple[str, ...]
    ids: npt.NDArray[np.int64]
    weights: str
    facts: dict[str, Any] = field(default_factory=dict)
    digests: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if not self.method:
            raise EvaluationError("method", "has no name")
        shape = (len(self.queries), len(self.ids))
        if self.scores.shape != shape:
            raise EvaluationError(
                f"{self.method}.scores",
                f"shape {self.scores.shape}, but {shape[0]} queries and {shape[1]} items",
            )
        if self.scores.dtype != np.float32:
            raise EvaluationError(f"{self.method}.scores", f"{self.scores.dtype}; must be float32")
        if self.digests is not None and len(self.digests) != len(self.queries):
            raise EvaluationError(
                f"{self.method}.digests", f"{len(self.digests)} for {len(self.queries)} queries"
            )
        for name, values in (("queries", self.queries), ("ids", self.ids.tolist())):
            if len(set(values)) != len(values):
                raise EvaluationError(f"{self.method}.{name}", "an entry is there twice")
        bad = ~np.isfinite(self.scores).all(axis=1)
        if bad.any():
            first = self.queries[int(np.flatnonzero(bad)[0])]
            count = int((~np.isfinite(self.scores)).sum())
            raise EvaluationError(
                f"{self.method}.scores", f"{count} values are not finite, the first in query {first}"
            )

    def aligned(
        self,
        queries: Sequence[str],
        ids: npt.NDArray[np.int64],
        digests: Sequence[str] | None = None,
    ) -> npt.NDArray[np.float32]:
        """Scores of these queries and items in this order, float32 [Q, N].

        The file may hold more queries, but exactly these items: a score among fewer items is another question. With
        `digests`, one a query, a query of the same name with another prompt, seed or picture is refused.
        """
        where = {name: row for row, name in enumerate(self.queries)}
        missing = [name for name in queries if name not in where]
        if missing:
            raise EvaluationError(f"{self.method}.queries", f"{len(missing)} are missing, e.g. {missing[0]}")
        known = self.digests_of(queries)
        if digests is not None and known is not None:
            other = [name for name, a, b in zip(queries, digests, known, strict=True) if a != b]
            if other:
                raise EvaluationError(
                    f"{self.method}.queries",
                    f"{len(other)} are other ones (prompt, seed or picture) of the same name, e.g. {other[0]}",
                )
        if len(ids) != len(self.ids) or set(ids.tolist()) != set(self.ids.tolist()):
            raise EvaluationError(
                f"{self.method}.ids", f"{len(self.ids)} items that are not the {len(ids)} of the training set"
            )
        column = {number: at for at, number in enumerate(self.ids.tolist())}
        columns = [column[number] for number in ids.tolist()]
        return np.ascontiguousarray(self.scores[[where[name] for name in queries]][:, columns])

    def digests_of(self, queries: Sequence[str]) -> tuple[str, ...] | None:
        """Digests of these queries, all of which the file must hold."""
        if self.digests is None:
            return None
        known = dict(zip(self.queries, self.digests, strict=True))
        return tuple(known[name] for name in queries)


def save_scores(file: ScoreFile, path: Path) -> None:
    """Write a compressed .npz, atomically; raises `EvaluationError` if the file cannot be written."""
    facts = {
        "schema_version": SCHEMA_VERSION,
        "method": file.method,
        "weights": file.weights,
        "facts": file.facts,
        "query_digests": file.digests,
    }
    with whole(path, EvaluationError) as stream:
        np.savez_compressed(
            stream,
            scores=file.scores,
            queries=np.array(file.queries, dtype=np.str_),
            ids=file.ids,
            about=np.array(json.dumps(facts)),
        )


def load_scores(path: Path, *, weights: str | None = None) -> ScoreFile:
    """Read what `save_scores` wrote; raises `EvaluationError` if it is damaged or `weights` is another model."""
    with reading(path, EvaluationError, "not a file of scores"):
        with np.load(path, allow_pickle=False) as parts:
            about = json.loads(str(parts["about"]))
            scores, queries, ids = parts["scores"], parts["queries"], parts["ids"]
        version, method, made_by = about["schema_version"], about["method"], about["weights"]
        facts, digests = about["facts"], about.get("query_digests")
    if version != SCHEMA_VERSION:
        raise EvaluationError(str(path), f"schema version {version}; this program reads {SCHEMA_VERSION}")
    if weights is not None and made_by != weights:
        raise EvaluationError(str(path), f"scores of model {made_by[:12]}, not of {weights[:12]}")
    return ScoreFile(
        method,
        scores,
        tuple(queries.tolist()),
        ids.astype(np.int64),
        made_by,
        facts,
        None if digests is None else tuple(digests),
    )
