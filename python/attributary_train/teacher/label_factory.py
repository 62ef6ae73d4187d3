"""The label factory: plans once, then keeps one single-threaded worker a core busy until every query has its label."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock

from attributary.bundle.files import sha256
from attributary_train import jobs
from attributary_train.corpus import Corpus
from attributary_train.errors import TeacherError
from attributary_train.subject.checkpoint import load_subject, training_data
from attributary_train.subject.data import SubjectData
from attributary_train.subject.model import SubjectModel
from attributary_train.subject.queries import Queries, load_queries
from attributary_train.teacher.abu import Abu
from attributary_train.teacher.candidates import choose
from attributary_train.teacher.ekfac import Factors, save_factors
from attributary_train.teacher.labels import (
    BASELINE,
    FACTORS,
    FACTS,
    LOCKS,
    SCHEMA_VERSION,
    SHARDS,
    LabelSettings,
    Planned,
    forget_failures,
    read_facts,
    read_labels,
    read_plan,
    shard_path,
    write_facts,
    write_plan,
)
from attributary_train.teacher.query_digest import query_digests
from attributary_train.teacher.registry import Context, create

Log = Callable[[str], None]
# Queries whose candidates are chosen at a time.
_PLANNED = 64


@dataclass(frozen=True)
class Job:
    """Where everything lies. `splits`: which queries to label."""

    folder: Path
    subject: Path
    corpus: Path
    queries: Path
    cache: Path
    splits: tuple[str, ...] = ("train",)
    limit: int | None = None

    def paths(self) -> dict[str, str]:
        """For labels.json; workers start elsewhere, so they are made absolute."""
        return {
            name: str(getattr(self, name).resolve()) for name in ("subject", "corpus", "queries", "cache")
        }


@dataclass(frozen=True)
class Made:
    """What a call did. `pairs`: (query, candidate) pairs labelled by it in `seconds`."""

    queries: int
    failed: int
    pairs: int
    seconds: float


def prepare(job: Job, settings: LabelSettings, log: Log, device: str = "cpu") -> None:
    """Plan, fit factors and take the baseline, unless the folder has them already.

    Of several that start at a time one prepares and the others wait for it. Raises `TeacherError` if the folder was
    begun with other settings, another model or other queries, or cannot be written.
    """
    try:
        for name in (SHARDS, LOCKS):
            (job.folder / name).mkdir(parents=True, exist_ok=True)
        with FileLock(job.folder / LOCKS / "prepare.lock"):
            _prepare(job, settings, log, device)
    except OSError as error:
        raise TeacherError(str(job.folder), f"cannot be used: {error}") from error


def _prepare(job: Job, settings: LabelSettings, log: Log, device: str) -> None:
    model = load_subject(job.subject)
    settings_of = {
        "schema_version": SCHEMA_VERSION,
        "settings": json.loads(json.dumps(settings.to_json())),
        "weights": model.weights,
        "queries": sha256(job.queries),
        "splits": list(job.splits),
        "limit": job.limit,
    }
    if (job.folder / FACTS).exists():
        facts = read_facts(job.folder)
        for name, value in settings_of.items():
            if facts.get(name) != value:
                raise TeacherError(
                    str(job.folder / FACTS), f"was begun with another value of {name}; choose another folder"
                )
        if facts["paths"] != job.paths():
            write_facts(job.folder, {**facts, "paths": job.paths()})
        return
    corpus = Corpus.open(job.corpus)
    data = training_data(model, job.subject, corpus, job.cache)
    queries = load_queries(job.queries, model)
    wanted = [row for row, split in enumerate(queries.splits) if split in job.splits][: job.limit]
    if not wanted:
        raise TeacherError("splits", f"no query of {', '.join(job.splits)} in {job.queries}")
    log(f"planning {len(wanted)} queries")
    chosen = queries.take(wanted)
    write_plan(job.folder, _plan(job, settings, corpus, model, data, chosen))
    log("fitting the Fisher information and taking the baseline losses")
    teacher = Abu(settings.teacher, scratch=job.cache / "factors", device=device)
    teacher.fit(data, model, baseline=job.folder / BASELINE)
    factors = teacher.factors
    fitted: dict[str, object] | None = None
    if isinstance(factors, Factors):
        save_factors(factors, job.folder / FACTORS)
        fitted = {"backend": factors.facts["backend"], "digest": factors.digest}
    elif factors is not None:
        fitted = {"backend": "torch", "digest": factors.digest}
    found = {
        "data": data.digest,
        "factors": fitted,
        "query_digests": dict(zip(chosen.names, query_digests(chosen), strict=True)),
    }
    write_facts(job.folder, {**settings_of, **found, "paths": job.paths()})


def _plan(
    job: Job,
    settings: LabelSettings,
    corpus: Corpus,
    model: SubjectModel,
    data: SubjectData,
    queries: Queries,
) -> list[Planned]:
    features = None
    if not settings.candidates.everything:
        features = create("joined", Context(job.subject, corpus, job.cache))
        features.fit(data, model)
    plan = []
    for at, name in enumerate(queries.names):
        if at % _PLANNED == 0:
            # Some queries at a time: all of them beside all items are more than memory holds.
            some = queries.take(range(at, min(at + _PLANNED, len(queries))))
            similarity = (
                np.zeros((len(some), len(data)), np.float32)
                if features is None
                else features.score(some, data.ids)
            )
        candidates = choose(name, similarity[at % _PLANNED], data.ids, settings.candidates)
        plan.append(
            Planned(
                name, at // settings.per_shard, candidates, min(settings.candidates.nearest, len(candidates))
            )
        )
    return plan


def make_labels(
    job: Job,
    settings: LabelSettings,
    *,
    workers: int = 2,
    devices: Sequence[str] = ("cpu",),
    retry_failed: bool = False,
    log: Log = print,
) -> Made:
    """Label every query of the job that has no label yet; may be killed at any moment and called again.

    Workers take the `devices` in turn: one process a GPU, one a core. A query that fails is recorded and skipped, until
    a call with `retry_failed`, which makes its shard anew. Raises `TeacherError` if a worker ends without a reason of
    the kind.
    """
    TeacherError.if_below(1, workers=workers)
    prepare(job, settings, log, devices[0])
    if retry_failed:
        log(f"{forget_failures(job.folder)} shards with failed queries are made again")
    pairs = {
        number: sum(len(e.candidates) for e in entries) for number, entries in read_plan(job.folder).items()
    }
    todo = missing(job.folder, pairs)
    began = time.monotonic()
    if todo:
        _run(job.folder, {number: pairs[number] for number in todo}, workers, devices, log)
    return summary(job, sum(pairs[number] for number in todo), time.monotonic() - began, log)


def missing(folder: Path, numbers: Iterable[int]) -> list[int]:
    """Those of some shards that are not there."""
    return [number for number in numbers if not shard_path(folder, number).exists()]


def summary(job: Job, pairs: int, seconds: float, log: Log) -> Made:
    """Say which queries failed and count what is there."""
    labels = read_labels(job.folder)
    failed = [label for label in labels if label.error is not None]
    for label in failed:
        log(f"failed: {label.query}: {label.error}")
    return Made(len(labels), len(failed), pairs, seconds)


def _run(folder: Path, pairs: dict[int, int], workers: int, devices: Sequence[str], log: Log) -> None:
    """Make the shards of `pairs`, which says how many pairs each holds."""
    crew = jobs.Crew(
        "label worker",
        "attributary_train.teacher.label_worker",
        (str(folder),),
        min(workers, len(pairs)),
        devices,
        logs=folder / LOCKS,
        pieces="shards",
        unit="pairs",
        total=sum(pairs.values()),
        error=TeacherError,
    )

    def left() -> list[int]:
        return missing(folder, pairs)

    jobs.supervise(
        crew, lambda: crew.total - sum(pairs[number] for number in left()), lambda: len(left()), log
    )
