"""The job on Ray Data: tasks read and decode, actors hold the engine, the driver commits whole shards.

The shard contract of docs/batch.md holds as it does on one machine: the same batches go through the engine together,
and the driver alone writes, so the output directory need only be seen by it. Logs, pictures and the bundle must be seen
under the same paths on every machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import ray

from attributary.errors import RunError

from .counting import Counts, Progress, Tally
from .job import Result, run_job
from .plan import Plan
from .ray_stream import RayOptions, stream
from .rows import BundleState, Shard
from .run import Run
from .schema import batch_table
from .scoring import BatchPreparer, PreparedBatch, Scorer
from .source import ScorerSource

# One for each process of a cluster: opening it reads the items of the bundle.
_STAGES: dict[ScorerSource, BatchPreparer | Scorer] = {}


@dataclass(frozen=True, slots=True)
class Part:
    """One batch of a shard between the stages, and the shard's output of it behind them."""

    shard: int
    place: int  # of the batch in the shard
    prepared: PreparedBatch


@dataclass(frozen=True, slots=True)
class Done:
    """The output rows of one batch."""

    shard: int
    place: int
    rows: pa.RecordBatch


def score_on_ray(
    plan: Plan,
    source: ScorerSource,
    out: Path,
    options: RayOptions,
    *,
    max_error_rate: float = 1.0,
    progress: Progress = lambda counts: None,
) -> Result:
    """Score a planned log on Ray, or go on with a run that was stopped, on Ray or not. The bytes are the same.

    Raises what `attributary.batch.job.score` raises, and UnavailableError if the cluster cannot be had or is lost.
    """
    # Opened here too: nothing starts on a cluster before the bundle is verified.
    scorer = source.open()
    try:
        bundle = scorer.bundle()
    finally:
        scorer.close()
    del scorer

    def runner(run: Run) -> Counts:
        return run_on_ray(run, source, options, max_error_rate=max_error_rate, progress=progress)

    return run_job(plan, bundle, out, runner)


def run_on_ray(
    run: Run,
    source: ScorerSource,
    options: RayOptions,
    *,
    max_error_rate: float = 1.0,
    progress: Progress = lambda counts: None,
) -> Counts:
    """Score the missing shards of a run, commit each when its last batch is there, and return the counts.

    Raises what a reader, the engine or a writer raises, and RunError past the error rate; what is committed stays.
    """
    tally = Tally(run, max_error_rate, progress)
    missing = {shard.number: shard for shard in tally.missing}
    reading = ReadShard(run.plan, source)
    opening = OpenEngine(source, run.writer.bundle, run.writer.schema, _node(options))
    waiting: dict[int, dict[int, pa.RecordBatch]] = {}
    with closing(stream(tally.missing, reading, opening, options)) as results:
        for done in results:
            shard = missing[done.shard]
            found = waiting.setdefault(done.shard, {})
            found[done.place] = done.rows
            if len(found) < _batches(shard, run.plan):
                continue
            del waiting[done.shard]
            tally.add(shard, run.writer.commit(shard, [found[place] for place in range(len(found))]))
    return tally.counts


@dataclass(frozen=True, slots=True)
class ReadShard:
    """The first stage: a shard's rows, fetched, decoded, resized and tokenised, a batch at a time."""

    plan: Plan
    source: ScorerSource

    def __call__(self, shard: Shard) -> Iterator[Part]:
        """Yield the shard's batches in order."""
        stage = _STAGES.get(self.source)
        if stage is None:
            stage = _STAGES.setdefault(self.source, self.source.open_stage())
        reader = self.plan.reader(shard.file)
        try:
            for place, batch in enumerate(reader.batches(shard, self.plan.settings.batch_size)):
                yield Part(shard.number, place, stage.prepare(batch))
        finally:
            reader.close()


@dataclass(frozen=True, slots=True)
class OpenEngine:
    """What an actor begins with: the engine, held to the bundle that the run is about."""

    source: ScorerSource
    bundle: BundleState
    schema: pa.Schema
    verified_on: str  # node of the cluster

    def __call__(self) -> ScoreParts:
        """Open the engine; raises RunError if this machine has another bundle."""
        scorer = self.source.open(verify=self.verified_on not in ("*", _this_node()))
        here = scorer.bundle()
        if here.id != self.bundle.id:
            raise RunError("bundle", f"an actor has bundle {here.id}, the run is about {self.bundle.id}")
        return ScoreParts(scorer, self.schema)


class ScoreParts:
    """The second stage: one batch through the engine."""

    def __init__(self, scorer: Scorer, schema: pa.Schema) -> None:
        self._scorer = scorer
        self._schema = schema
        self._bundle_id = scorer.bundle().id

    def __call__(self, part: Part) -> Done:
        """Return the batch's output rows."""
        prepared = part.prepared
        outcomes = self._scorer.answer(prepared)
        rows = batch_table(
            self._schema, prepared.ids, prepared.passed, outcomes, self._bundle_id, prepared.prompts
        )
        return Done(part.shard, part.place, rows)


def _batches(shard: Shard, plan: Plan) -> int:
    return -(-shard.rows // plan.settings.batch_size)


def _node(options: RayOptions) -> str:
    """The node that this process is on, where it is known before the cluster is joined."""
    if ray.is_initialized():
        return _this_node()
    # A cluster of this machine's own has no other.
    return "" if options.address else "*"


def _this_node() -> str:
    return str(ray.get_runtime_context().get_node_id())
