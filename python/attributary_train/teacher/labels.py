"""Labels on disk: what the teacher said about each query, in shards that are there whole or not at all.

<folder>/labels.json     what was asked: settings, hashes of model, data, queries and factors, and who fitted these
<folder>/plan.parquet    every query's shard and candidates, chosen once
<folder>/factors.safetensors, baseline.npy
<folder>/shards/00012.parquet    finished shards; a file here is complete and never changes
<folder>/locks/          held while a shard is being made; freed by the kernel when its holder dies
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock

from attributary_train.errors import TeacherError
from attributary_train.files import reading, whole, write_text
from attributary_train.jobs import starts_path
from attributary_train.teacher.abu import AbuSettings
from attributary_train.teacher.candidates import CandidateSettings
from attributary_train.teacher.ekfac import FactorSettings

SCHEMA_VERSION = 1
FACTS, PLAN, FACTORS, BASELINE = "labels.json", "plan.parquet", "factors.safetensors", "baseline.npy"
SHARDS, LOCKS = "shards", "locks"

# One row a query. `scores` belong to `candidates`, larger = more influential; both empty where `error` says why there
# are none.
SHARD_SCHEMA = pa.schema(
    [
        pa.field("query", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("candidates", pa.list_(pa.int64()), nullable=False),
        pa.field("scores", pa.list_(pa.float32()), nullable=False),
        pa.field("nearest", pa.int32(), nullable=False),
        pa.field("step", pa.float64()),
        pa.field("change", pa.float64()),
        pa.field("error", pa.string()),
    ]
)


# Settings of the teacher that the first label folders do not name.
_LATER = ("papers_alpha", "step", "part", "skew", "shared_noise", "span")


@dataclass(frozen=True)
class LabelSettings:
    """What decides the labels, apart from model, data and queries."""

    teacher: AbuSettings = field(default_factory=AbuSettings)
    candidates: CandidateSettings = field(default_factory=CandidateSettings)
    per_shard: int = 8

    def __post_init__(self) -> None:
        TeacherError.if_below(1, per_shard=self.per_shard)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, in the form of older files where nothing newer is set; `from_json` is the inverse."""
        values, usual = asdict(self), asdict(AbuSettings())
        for name in _LATER:
            if values["teacher"][name] == usual[name]:
                del values["teacher"][name]
        return values

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> LabelSettings:
        """Read settings back."""
        teacher = dict(values["teacher"])
        teacher["factors"] = FactorSettings(**teacher["factors"])
        return cls(AbuSettings(**teacher), CandidateSettings(**values["candidates"]), values["per_shard"])


@dataclass(frozen=True)
class Label:
    """One query's answer. `nearest`: how many of the candidates were chosen by similarity; they come first."""

    query: str
    split: str
    candidates: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float32]
    nearest: int
    step: float | None
    change: float | None
    error: str | None


def write_atomically(path: Path, table: pa.Table) -> None:
    """Write Parquet whole or not at all, also if the power fails; raises `TeacherError` on a full disk."""
    with whole(path, TeacherError) as stream:
        pq.write_table(table, stream, compression="zstd")


def write_shard(folder: Path, number: int, labels: Sequence[Label]) -> None:
    """Commit one shard."""
    columns = {name: [getattr(label, name) for label in labels] for name in SHARD_SCHEMA.names}
    write_atomically(shard_path(folder, number), pa.table(columns, schema=SHARD_SCHEMA))


def shard_path(folder: Path, number: int) -> Path:
    """Where a shard lies."""
    return folder / SHARDS / f"{shard_name(number)}.parquet"


def shard_name(number: int) -> str:
    """A shard as a piece of work: the name of its lock."""
    return f"{number:05d}"


@dataclass(frozen=True)
class Planned:
    """One query of the plan."""

    query: str
    shard: int
    candidates: npt.NDArray[np.int64]
    nearest: int


def write_plan(folder: Path, plan: Sequence[Planned]) -> None:
    """Write who is labelled against what."""
    write_atomically(
        folder / PLAN,
        pa.table(
            {
                "query": [entry.query for entry in plan],
                "shard": pa.array([entry.shard for entry in plan], pa.int32()),
                "candidates": pa.array([entry.candidates for entry in plan], pa.list_(pa.int64())),
                "nearest": pa.array([entry.nearest for entry in plan], pa.int32()),
            }
        ),
    )


def write_facts(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write labels.json; the folder is a label folder once it is there."""
    write_text(folder / FACTS, json.dumps(facts, indent=2) + "\n", TeacherError)


def read_plan(folder: Path) -> dict[int, list[Planned]]:
    """Shard number -> its queries, in order."""
    with reading(folder / PLAN, TeacherError, "not a plan of labels"):
        table = pq.read_table(folder / PLAN)
        rows = [
            Planned(name, shard, np.asarray(table["candidates"][at].values, np.int64), nearest)
            for at, (name, shard, nearest) in enumerate(
                zip(
                    cast(list[str], table["query"].to_pylist()),
                    cast(list[int], table["shard"].to_pylist()),
                    cast(list[int], table["nearest"].to_pylist()),
                    strict=True,
                )
            )
        ]
    plan: dict[int, list[Planned]] = {}
    for row in rows:
        plan.setdefault(row.shard, []).append(row)
    return plan


def read_facts(folder: Path) -> dict[str, Any]:
    """Raises `TeacherError` if the folder holds no labels of this version."""
    with reading(folder / FACTS, TeacherError):
        facts: dict[str, Any] = json.loads((folder / FACTS).read_text())
        version = facts["schema_version"]
    if version != SCHEMA_VERSION:
        raise TeacherError(
            str(folder / FACTS), f"schema version {version}; this program reads {SCHEMA_VERSION}"
        )
    return facts


def read_labels(folder: Path, *, weights: str | None = None) -> list[Label]:
    """Every label that is finished, in the plan's order, failed queries included (`error` is set).

    Raises `TeacherError` if the labels are another model's, or a shard is damaged.
    """
    facts = read_facts(folder)
    if weights is not None and facts["weights"] != weights:
        raise TeacherError(str(folder), f"labels of model {facts['weights'][:12]}, not of {weights[:12]}")
    return [label for path in sorted((folder / SHARDS).glob("*.parquet")) for label in read_shard(path)]


def read_shard(path: Path) -> list[Label]:
    """Labels of one shard; raises `TeacherError` if it is damaged."""
    with reading(path, TeacherError, "damaged, remove it and label again"):
        table = pq.read_table(path, schema=SHARD_SCHEMA)
    labels = []
    for at in range(table.num_rows):
        row = {name: table[name][at] for name in SHARD_SCHEMA.names}
        labels.append(
            Label(
                row["query"].as_py(),
                row["split"].as_py(),
                np.asarray(row["candidates"].values, np.int64),
                np.asarray(row["scores"].values, np.float32),
                row["nearest"].as_py(),
                row["step"].as_py(),
                row["change"].as_py(),
                row["error"].as_py(),
            )
        )
    return labels


def errors_of(planned: Sequence[Planned], splits: Mapping[str, str], reason: str) -> list[Label]:
    """A shard of queries that were given up; `splits`: by query name."""
    nothing = np.zeros(0, np.int64)
    return [
        Label(entry.query, splits[entry.query], nothing, nothing.astype(np.float32), 0, None, None, reason)
        for entry in planned
    ]


def forget_failures(folder: Path) -> int:
    """Let shards with a failed query be made again; returns how many. Their other queries get the same numbers."""
    forgotten = 0
    for number in read_plan(folder):
        with FileLock(folder / LOCKS / f"{shard_name(number)}.lock"):
            path = shard_path(folder, number)
            if path.exists() and any(label.error is not None for label in read_shard(path)):
                starts_path(folder / LOCKS, shard_name(number)).unlink(missing_ok=True)
                path.unlink()
                forgotten += 1
    return forgotten
