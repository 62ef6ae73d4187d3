"""What a run comes to: creators' totals, added up over committed shards in order, and its summary."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from attributary.bundle.files import sha256
from attributary.errors import OutputError
from attributary.plain import csv_file

from .rows import SCHEMA_VERSION
from .run import RUN, SHARDS, SUMMARY, Run, commit, json_bytes, parquet_bytes, shard_name

CREATORS = "creators.parquet"
CREATORS_CSV = "creators.csv"
CREATOR_COLUMNS = ("creator", "share", "share_in_distribution", "generations", "mean_share", "low", "high")


@dataclass(slots=True)
class Totals:
    """Sums over the rows of a run, float64, in the order of rows."""

    rows: int = 0
    answered: int = 0
    out_of_distribution: int = 0
    last_revision: int = 0
    diffuse_share: float = 0.0
    withheld_share: float = 0.0
    errors: Counter[str] = field(default_factory=Counter)
    prompts: Counter[str] = field(default_factory=Counter)  # rows with a prompt, by where it was found
    names: dict[str, int] = field(default_factory=dict)
    # By creator, in columns: share, share in distribution, generations, and the ends of intervals as if all answers
    # erred the same way, NaN where one had none. Float64 holds whole numbers up to 2**53.
    sums: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 5)))

    def add(self, table: pa.Table) -> None:
        """Add one shard's rows."""
        self.rows += len(table)
        self.errors.update(code for code in table["error_code"].to_pylist() if code is not None)
        self.prompts.update(source for source in table["prompt_source"].to_pylist() if source is not None)
        answered = table.filter(pc.is_valid(table["creators"]))
        self.answered += len(answered)
        if len(answered):
            self.last_revision = max(self.last_revision, pc.max(answered["bundle_revision"]).as_py())
        foreign = np.asarray(answered["out_of_distribution"].to_numpy(), bool)
        self.out_of_distribution += int(foreign.sum())
        for share in answered["diffuse_share"].to_pylist():
            self.diffuse_share += share or 0.0
        for share in answered["withheld_share"].to_pylist():
            self.withheld_share += share or 0.0
        lists = answered["creators"].combine_chunks()
        row_of = pc.list_parent_indices(lists).to_numpy()
        flat: Any = pc.list_flatten(lists)
        codes = np.array([self._code(name) for name in flat.field("creator").to_pylist()], np.int64)
        shares = flat.field("share").to_numpy(zero_copy_only=False).astype(np.float64)
        # Null comes out as NaN, and a sum with it stays NaN.
        low, high = (flat.field(end).to_numpy(zero_copy_only=False) for end in ("low", "high"))
        in_distribution = np.where(foreign[row_of], 0.0, shares)
        columns = np.stack([shares, in_distribution, np.ones(len(shares)), low, high], axis=1)
        # np.add.at adds one after the other: the sum does not depend on how shards are read.
        np.add.at(self.sums, codes, columns.astype(np.float64))

    def creators(self) -> pa.Table:
        """Return one row a creator by descending share, then by name."""
        names = list(self.names)
        order = sorted(range(len(names)), key=lambda code: (-self.sums[code, 0], names[code]))
        share, in_distribution, generations, low, high = self.sums[order].T
        columns: tuple[Any, ...] = (
            pa.array([names[code] for code in order], pa.string()),
            pa.array(share, pa.float64()),
            pa.array(in_distribution, pa.float64()),
            pa.array(generations.astype(np.int64), pa.int64()),
            pa.array(share / max(1, self.answered), pa.float64()),
            pa.array(low, pa.float64(), from_pandas=True),
            pa.array(high, pa.float64(), from_pandas=True),
        )
        return pa.table(dict(zip(CREATOR_COLUMNS, columns, strict=True)))

    def _code(self, name: str) -> int:
        code = self.names.setdefault(name, len(self.names))
        if code >= len(self.sums):
            self.sums = np.concatenate([self.sums, np.zeros((max(64, len(self.sums)), 5))])
        return code


def shard_tables(directory: Path, columns: tuple[str, ...] | None = None) -> Iterator[pa.Table]:
    """Yield the tables of a run's shards in order; raises OutputError naming one that is damaged."""
    for path in sorted((directory / SHARDS).glob("shard-*.parquet")):
        yield read_shard(path, columns)


def read_shard(path: Path, columns: tuple[str, ...] | None = None) -> pa.Table:
    """Read one output shard, its page checksums verified; raises OutputError."""
    try:
        return pq.read_table(
            path,
            columns=None if columns is None else list(columns),
            page_checksum_verification=True,
            partitioning=None,
            use_threads=False,
        )
    except (OSError, pa.ArrowException) as error:
        raise OutputError(
            f"{SHARDS}/{path.name}", f"is damaged: {error}; remove it to have it scored again"
        ) from error


def finish(run: Run) -> dict[str, Any]:
    """Write creators' totals and then the summary of a run whose shards are all there; return the summary.

    Raises OutputError for a shard that is damaged and for what cannot be written.
    """
    totals = Totals()
    digests = {RUN: sha256(run.directory / RUN)}
    for shard in run.plan.shards:
        path = run.directory / SHARDS / shard_name(shard.number)
        totals.add(_verified(path, run.schema))
        digests[f"{SHARDS}/{path.name}"] = sha256(path)
    table = totals.creators()
    facts = {"attributary.schema_version": str(SCHEMA_VERSION), "attributary.run": run.run_id}
    rows = zip(*(table[name].to_pylist() for name in CREATOR_COLUMNS), strict=True)
    for name, data in (
        (CREATORS, parquet_bytes(table, facts)),
        (CREATORS_CSV, csv_file(CREATOR_COLUMNS, rows)),
    ):
        commit(run.directory / name, data, name)
        digests[name] = sha256(run.directory / name)
    summary = {
        "schema_version": SCHEMA_VERSION,
        "run": run.run_id,
        "bundle_id": run.bundle.id,
        # As the run began, and of the last change that a row was answered after; rows say which is theirs.
        "bundle_revision": run.bundle.revision,
        "last_bundle_revision": max(run.bundle.revision, totals.last_revision),
        "rows": totals.rows,
        "answered": totals.answered,
        "errors": dict(sorted(totals.errors.items())),
        "prompts": {"rows": totals.prompts.total(), "by_source": dict(sorted(totals.prompts.items()))},
        "skipped": dict(sorted(run.plan.fates.skipped.items())),
        "ignored": dict(sorted(run.plan.fates.ignored.items())),
        "out_of_distribution": totals.out_of_distribution,
        "diffuse_share": totals.diffuse_share,
        "withheld_share": totals.withheld_share,
        "attributed_share": float(sum(share or 0.0 for share in table["share"].to_pylist())),
        "creators": len(table),
        "files": digests,
    }
    commit(run.directory / SUMMARY, json_bytes(summary), SUMMARY)
    return summary


def _verified(path: Path, schema: pa.Schema) -> pa.Table:
    """Read a shard of which every byte is what the contract writes for its rows."""
    table = read_shard(path)
    facts = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    # Page checksums leave headers and footers out; the writer's determinism covers every bit.
    if parquet_bytes(table.cast(schema), facts) != path.read_bytes():
        raise OutputError(
            f"{SHARDS}/{path.name}",
            "is damaged: its bytes are not its rows'; remove it to have it scored again",
        )
    return table
