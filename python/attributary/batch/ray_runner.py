"""The job on Ray Data: tasks read and decode on any core, actors hold the engine, the driver commits whole shards.

The shard contract of docs/batch.md holds as it does on one machine: the same batches go through the engine together,
and the driver alone writes, so the output directory need only be seen by it. Logs, pictures and the bundle must be seen
under the same paths on every machine.
"""

from __future__ import annotations

import logging
import os
import pickle
import socket
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import ray
import ray.data
from ray.exceptions import RayError, RayTaskError

from attributary.errors import AttributaryError, RunError, UnavailableError, check_range
from attributary.machine import cores

from .engines import ScorerSource
from .job import Counts, Progress, Result, Tally, run_job
from .plan import Plan
from .rows import BundleState, PreparedBatch, Shard
from .run import Run
from .scoring import Scorer

Item = TypeVar("Item")
Middle = TypeVar("Middle")
Outcome = TypeVar("Outcome")

_COLUMN = "data"
# A core is shared by one actor, which computes, and the tasks that feed it.
_ACTOR_CPUS, _TASK_CPUS = 0.75, 0.25
# Blocks leave a stage at this size, so that an actor need not wait for a whole item to be unfolded.
_BLOCK_BYTES = 8 << 20
# What may lie between the stages on a cluster of this machine's own.
_STORE_BYTES = 512 << 20
# A picture that kills its process must not be tried for ever.
_MAX_RESTARTS, _MAX_RETRIES = 16, 4
_MAX_BLOCKS = 10_000
_REACH_S = 10.0


# One batch of a shard on its way, and behind the engine: (number of the shard, place of the batch in it, batch).
_Part = tuple[int, int, PreparedBatch]
_Done = tuple[int, int, pa.RecordBatch]
# One for each process of a cluster: opening it reads the items of the bundle.
_STAGES: dict[ScorerSource, Scorer] = {}


@dataclass(frozen=True, slots=True)
class RayOptions:
    """Where the stages run and how many actors there are."""

    address: str = ""  # of a cluster, or "auto"; empty: one of this machine's own, which ends with the stream
    actors: int | None = None  # None: one for each core, or for each share of a GPU
    gpus_per_actor: float = 0.0

    def __post_init__(self) -> None:
        if self.actors is not None:
            check_range("ray_actors", self.actors, 1)
        check_range("ray_gpus_per_actor", self.gpus_per_actor, 0, 64)


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
    with closing(source.open()) as scorer:
        bundle = scorer.bundle()
    del scorer

    def runner(run: Run) -> Counts:
        tally = Tally(run, max_error_rate, progress)
        missing = {shard.number: shard for shard in tally.missing}
        reading, opening = (
            _ReadShard(plan, source),
            _OpenEngine(source, run.bundle, run.schema, _node(options)),
        )
        waiting: dict[int, dict[int, pa.RecordBatch]] = {}
        with closing(stream(tally.missing, reading, opening, options)) as results:
            for number, place, rows in results:
                shard, found = missing[number], waiting.setdefault(number, {})
                found[place] = rows
                if len(found) == -(-shard.rows // plan.settings.batch_size):
                    del waiting[number]
                    tally.add(shard, run.commit(shard, [found[place] for place in range(len(found))]))
        return tally.counts

    return run_job(plan, bundle, out, runner)


@dataclass(frozen=True, slots=True)
class _ReadShard:
    """The first stage: a shard's rows, fetched, decoded, resized and tokenised, a batch at a time."""

    plan: Plan
    source: ScorerSource

    def __call__(self, shard: Shard) -> Iterator[_Part]:
        """Yield the shard's batches in order."""
        stage = _STAGES.get(self.source)
        if stage is None:
            stage = _STAGES.setdefault(self.source, self.source.open_stage())
        with closing(self.plan.reader(shard.file)) as reader:
            for place, batch in enumerate(reader.conformed(shard, self.plan.passed)):
                yield shard.number, place, stage.prepare(batch)


@dataclass(frozen=True, slots=True)
class _OpenEngine:
    """What an actor begins with: the engine, held to the bundle that the run is about."""

    source: ScorerSource
    bundle: BundleState
    schema: pa.Schema
    verified_on: str  # node of the cluster

    def __call__(self) -> Callable[[_Part], _Done]:
        """Open the engine; raises RunError if this machine has another bundle."""
        scorer = self.source.open(verify=self.verified_on not in ("*", _this_node()))
        here = scorer.bundle()
        if here.id != self.bundle.id:
            raise RunError("bundle", f"an actor has bundle {here.id}, the run is about {self.bundle.id}")

        def answer(part: _Part) -> _Done:
            shard, place, prepared = part
            return shard, place, scorer.rows(prepared, self.schema, here.id)

        return answer


def _node(options: RayOptions) -> str:
    """The node that this process is on, where it is known before the cluster is joined."""
    if ray.is_initialized():
        return _this_node()
    # A cluster of this machine's own has no other.
    return "" if options.address else "*"


def _this_node() -> str:
    return str(ray.get_runtime_context().get_node_id())


def stream(
    items: Sequence[Item],
    unfold: Callable[[Item], Iterable[Middle]],
    make_worker: Callable[[], Callable[[Middle], Outcome]],
    options: RayOptions,
) -> Generator[Outcome, None, None]:
    """Yield `worker(middle)` for every `middle` of `unfold(item)`, for every item.

    `unfold` and `make_worker` are pickled; each actor calls `make_worker` once. Closing the iterator stops the work.
    Raises the AttributaryError of a stage as it was raised, UnavailableError if the cluster cannot be had or is lost.
    """
    if not items:
        return
    with cluster(options), _settings(), _translated():
        task, actor = _resources(options)
        rows = [{_COLUMN: pickle.dumps(item)} for item in items]
        one: dict[str, Any] = {"batch_size": 1, "batch_format": "pyarrow", "zero_copy_batch": True}
        first: Any = _unfold_one
        with warnings.catch_warnings():
            # How often an actor may be restarted has no name of its own in this release; the default is for ever.
            warnings.filterwarnings("ignore", "`ray_remote_args` is deprecated")
            found = (
                ray.data.from_items(rows, override_num_blocks=min(len(rows), _MAX_BLOCKS))
                .map_batches(first, fn_kwargs={"unfold": unfold}, **one, **task)
                .map_batches(_Worker, fn_constructor_args=(make_worker,), **one, **actor)
            )
        batches: Iterable[Any] = found.iter_batches(
            batch_size=None, batch_format="pyarrow", prefetch_batches=1
        )
        for batch in batches:
            for value in batch.column(_COLUMN):
                yield _received(value.as_buffer())


@contextmanager
def cluster(options: RayOptions) -> Iterator[None]:
    """Join the cluster that the options name, or make one; one that runs in this process already is used as it is."""
    if ray.is_initialized():
        yield
        return
    # Ray would report usage to its makers, and warn of what `_MAX_RESTARTS` means.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    try:
        if options.address:
            _reach(options.address)
            ray.init(address=options.address, **quiet)
        else:
            ray.init(
                address="local",
                num_cpus=cores(),
                object_store_memory=_STORE_BYTES,
                include_dashboard=False,
                **quiet,
            )
    except Exception as error:  # Ray raises bare ones, too.
        raise UnavailableError(
            f"no Ray cluster at {options.address or 'this machine'}: {_line(error)}"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _unfold_one(batch: Any, unfold: Callable[[Any], Iterable[Any]]) -> Iterator[Any]:
    """The first stage: one item in, a pickle out for each of its parts."""
    try:
        for middle in unfold(pickle.loads(batch.column(_COLUMN)[0].as_buffer())):
            yield _sent(middle)
    except AttributaryError as error:
        yield _sent(error)


class _Worker:
    """The second stage: made once an actor."""

    def __init__(self, make_worker: Callable[[], Callable[[Any], Any]]) -> None:
        self._failed: AttributaryError | None = None
        try:
            self._worker = make_worker()
        except AttributaryError as error:
            # Ray would try again what is raised here.
            self._failed = error

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Work on one part."""
        middle = pickle.loads(batch.column(_COLUMN)[0].as_buffer())
        if isinstance(middle, AttributaryError) or self._failed is not None:
            return _sent(self._failed or middle)
        try:
            return _sent(self._worker(middle))
        except AttributaryError as error:
            return _sent(error)


def _sent(value: object) -> pa.Table:
    return pa.table({_COLUMN: pa.array([pickle.dumps(value, protocol=5)], pa.large_binary())})


def _received(data: pa.Buffer) -> Any:
    value = pickle.loads(data)
    if isinstance(value, AttributaryError):
        raise value
    return value


def _resources(options: RayOptions) -> tuple[dict[str, Any], dict[str, Any]]:
    """Ray's arguments of both stages. They must differ, or Ray joins the stages into one."""
    there: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    pool: dict[str, Any] = {"max_restarts": _MAX_RESTARTS, "max_task_retries": _MAX_RETRIES}
    if options.gpus_per_actor:
        if there.get("GPU", 0) < options.gpus_per_actor:
            raise UnavailableError(
                f"the Ray cluster has {there.get('GPU', 0):g} GPUs, an actor needs {options.gpus_per_actor:g}"
            )
        actors = options.actors or int(there["GPU"] / options.gpus_per_actor)
        pool |= {"num_cpus": 1, "num_gpus": options.gpus_per_actor}
        task: dict[str, Any] = {"num_cpus": 1}
    else:
        actors = options.actors or max(1, int(there.get("CPU", 1)))
        pool |= {"num_cpus": _ACTOR_CPUS}
        task = {"num_cpus": _TASK_CPUS}
    return task, {**pool, "compute": ray.data.ActorPoolStrategy(size=actors)}


@contextmanager
def _settings() -> Iterator[None]:
    """Ray Data's settings for one stream, without a trace in the process's own."""
    settings = ray.data.DataContext.get_current().copy()
    settings.enable_progress_bars = False
    settings.print_on_execution_start = False
    settings.target_max_block_size = _BLOCK_BYTES
    with ray.data.DataContext.current(settings):
        yield


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except RayTaskError:
        # A defect of a stage: its traceback is what helps.
        raise
    except RayError as error:
        raise UnavailableError(f"the Ray cluster failed: {_line(error)}") from error


def _reach(address: str) -> None:
    """Raise OSError if nobody listens at host:port: Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), _REACH_S).close()


def _line(error: BaseException) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)[:300]
