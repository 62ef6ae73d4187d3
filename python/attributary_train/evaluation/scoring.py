"""Run any method of the registry over a split's queries and the whole training set, into a score file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from attributary_train.errors import EvaluationError
from attributary_train.evaluation.scores import ScoreFile, save_scores
from attributary_train.files import whole
from attributary_train.subject.data import SubjectData
from attributary_train.subject.model import SubjectModel
from attributary_train.subject.queries import Queries
from attributary_train.teacher.base import Attributor, Cost
from attributary_train.teacher.query_digest import query_digests


def score_to_file(
    method: Attributor,
    name: str,
    data: SubjectData,
    model: SubjectModel,
    queries: Queries,
    out: Path,
    *,
    settings: Mapping[str, Any],
    chunk: int = 16,
    say: Callable[[str], None] | None = None,
) -> ScoreFile:
    """Fit, score `chunk` queries at a time against every item, and write `out`.

    Finished chunks are kept beside `out` until the file is whole, so that a killed run goes on where it was. Raises
    `EvaluationError` naming the query if a score is not finite.
    """
    EvaluationError.if_below(1, chunk=chunk)
    if not len(queries):
        raise EvaluationError("queries", "there are none in this split")
    if queries.weights != model.weights:
        raise EvaluationError("queries", f"made by model {queries.weights[:12]}, not by {model.weights[:12]}")
    digests = query_digests(queries)
    # Of another method, under another name, other settings or other queries nothing that was kept may be taken up.
    request = json.dumps(
        [method.name, name, dict(settings), model.weights, data.digest, queries.names, digests],
        sort_keys=True,
        default=str,
    )
    parts = out.with_name(f"{out.name}.{hashlib.sha256(request.encode()).hexdigest()[:12]}.parts")
    method.fit(data, model)
    rows, costs = [], []
    for at in range(0, len(queries), chunk):
        part = queries.take(range(at, min(at + chunk, len(queries))))
        found, cost = _chunk(method, part, data, parts / f"{chunk}-{at:05d}.npz")
        rows.append(found)
        costs.append((len(part), cost))
        if say is not None:
            say(f"{name}: {at + len(part)} of {len(queries)} queries")
    total = sum(count for count, _ in costs)
    cost = {
        **asdict(method.cost),
        "query_seconds": sum(count * each["query_seconds"] for count, each in costs) / total,
    }
    for key in ("candidates", "forward_passes"):
        cost[key] = costs[-1][1][key]
    facts = {"settings": dict(settings), "cost": cost, "splits": sorted(set(queries.splits))}
    file = ScoreFile(
        name, np.concatenate(rows), queries.names, data.ids.copy(), model.weights, facts, digests
    )
    save_scores(file, out)
    for path in parts.glob("*.npz"):
        path.unlink()
    if parts.exists():
        parts.rmdir()
    return file


def _chunk(
    method: Attributor, queries: Queries, data: SubjectData, path: Path
) -> tuple[npt.NDArray[np.float32], dict[str, Any]]:
    if path.exists():
        with np.load(path, allow_pickle=False) as kept:
            return kept["scores"], json.loads(str(kept["cost"]))
    scores = np.ascontiguousarray(method.score(queries, data.ids), np.float32)
    # Checks shape and values before anything is kept.
    ScoreFile(method.name, scores, queries.names, data.ids, queries.weights)
    cost: Cost = method.cost
    cost_bytes = np.array(json.dumps(asdict(cost)))
    with whole(path, EvaluationError) as stream:
        np.savez(stream, scores=scores, cost=cost_bytes)
    return scores, asdict(cost)
