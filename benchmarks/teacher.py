"""What does each attribution method cost, and how near is the label factory to its floor?

    attributary-train subject train --preset small --corpus out/corpus --out out/subject/small
    attributary-train subject queries --subject out/subject/small --corpus out/corpus --out out/subject/queries.parquet
    python benchmarks/teacher.py --subject out/subject/small --corpus out/corpus --queries out/subject/queries.parquet

Methods take turns, on one thread, so that a neighbour on the machine slows all alike. Per method: seconds a query over
the whole training set and over a few hundred candidates, storage per item, seconds to fit. Every method is asked about
the same queries at once; those that pass over the training set anew share that pass between them, as in use.

The floor of AbU+ is what cannot be saved: U-Net passes over (candidate, timestep) and over the draws of the query's
gradient, times the cost of one pass of the bare U-Net, measured in the same minute. The backward pass, the search for
the step's size and everything else is overhead.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["MKL_NUM_THREADS"] = "1"
os.environ["OPENBLAS_NUM_THREADS"] = "1"

from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import Aim, aim, arguments, emit

# Beside this script lies triton.py, which torch would take for its own triton.
sys.path.remove(str(Path(__file__).resolve().parent))

import numpy as np
import torch

from attributary_train.corpus import Corpus
from attributary_train.subject.checkpoint import load_subject, training_data
from attributary_train.subject.data import SubjectData
from attributary_train.subject.model import SubjectModel
from attributary_train.subject.queries import load_queries
from attributary_train.teacher.abu import Abu, AbuSettings
from attributary_train.teacher.base import Attributor
from attributary_train.teacher.candidates import CandidateSettings
from attributary_train.teacher.label_factory import Job, make_labels, prepare
from attributary_train.teacher.label_worker import Labeller
from attributary_train.teacher.labels import LabelSettings
from attributary_train.teacher.registry import Context, create

RIVALS = (
    "random",
    "pixels",
    "image",
    "text",
    "joined",
    "trak",
    "dtrak",
    "journey_trak",
    "logra",
    "ekfac_influence",
)
BATCH = 128
# Passes of 128 rows that one measurement of the floor takes.
PASSES = 8
SHARE = 0.6

Clock = Callable[[], float]


def main() -> None:
    options = _options()
    torch.set_num_threads(1)
    clock = time.thread_time if options.clock == "cpu" else time.perf_counter
    corpus = Corpus.open(options.corpus)
    model = load_subject(options.subject)
    data = training_data(model, options.subject, corpus, options.cache)
    if options.items:
        data = data.select(np.arange(min(options.items, len(data))))
    everything = load_queries(options.queries, model)
    queries = everything.take(range(min(options.count, len(everything))))
    rng = np.random.default_rng(0)
    few = rng.permutation(data.ids)[: options.candidates]
    names = options.methods.split(",") if options.methods else [*RIVALS, "abu", "abu+"]
    with tempfile.TemporaryDirectory() as scratch:
        context = Context(options.subject, corpus, options.cache, 1)
        methods = {name: _make(name, context, Path(scratch)) for name in names}
        for name, method in methods.items():
            method.fit(data, model)
            print(f"fitted {name}", file=sys.stderr, flush=True)
        unit, seconds = _turns(methods, model, data, queries, few, options.rounds, clock)
        rows = [_row(name, method, seconds[name], len(queries)) for name, method in methods.items()]
        aims: list[Aim] = []
        tables: dict[str, Any] = {"methods": rows, "one U-Net pass": [{"passes a second": 1.0 / unit}]}
        if options.label_queries:
            job = Job(
                Path(scratch) / "labels",
                options.subject,
                options.corpus,
                options.queries,
                options.cache,
                tuple(dict.fromkeys(everything.splits)),
                options.label_queries,
            )
            settings = LabelSettings(
                AbuSettings(gradient_draws=256),
                CandidateSettings(options.candidates // 2, options.candidates - options.candidates // 2),
                per_shard=2,
            )
            tables["label factory"], aims = _labels(job, settings, options.workers, clock)
    config = {
        "items": len(data),
        "queries at once": len(queries),
        "candidates": len(few),
        "rounds": options.rounds,
        "clock": options.clock,
        "threads": 1,
        "parameters of the U-Net": sum(p.numel() for p in model.unet.parameters()),
        "weights": model.weights[:12],
    }
    emit("teacher", config, tables, aims, options.json)


def _options() -> argparse.Namespace:
    parser = arguments("Cost of each attribution method, and of the label factory against its floor.")
    parser.add_argument("--subject", type=Path, default=Path("out/subject/small"))
    parser.add_argument("--corpus", type=Path, default=Path("out/corpus"))
    parser.add_argument("--queries", type=Path, default=Path("out/subject/queries.parquet"))
    parser.add_argument("--cache", type=Path, default=Path("out/cache/subject"))
    parser.add_argument("--methods", help="names with commas between them; default: all")
    parser.add_argument("--count", type=int, default=4, help="queries that are scored at once")
    parser.add_argument("--candidates", type=int, default=400)
    parser.add_argument("--items", type=int, help="score only the first so many training items")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--label-queries", type=int, default=12, help="0: leave the label factory out")
    parser.add_argument(
        "--workers", type=int, default=2, help="of the label factory's whole run; 0: leave it out"
    )
    parser.add_argument(
        "--clock", choices=("wall", "cpu"), default="wall", help="cpu leaves out what others took"
    )
    return parser.parse_args()


def _make(name: str, context: Context, scratch: Path) -> Attributor:
    if name in ("abu", "abu+"):
        return Abu(AbuSettings(fisher="ekfac" if name == "abu+" else "diagonal"), scratch=scratch)
    return create(name, context)


def _unit(model: SubjectModel, data: SubjectData, clock: Clock) -> float:
    """Seconds of one row of a bare U-Net pass."""
    rows = torch.arange(BATCH) % len(data)
    latents, text = data.latents[rows], data.text[rows]
    steps = torch.linspace(0, model.timesteps - 1, BATCH).long()
    with torch.inference_mode():
        began = clock()
        for _ in range(PASSES):
            model.unet(latents, steps, text, return_dict=False)
        return (clock() - began) / (PASSES * BATCH)


def _turns(
    methods: dict[str, Attributor],
    model: SubjectModel,
    data: SubjectData,
    queries: Any,
    few: Any,
    rounds: int,
    clock: Clock,
) -> tuple[float, dict[str, dict[str, Any]]]:
    """Median seconds of every method on all items and on few, and of a U-Net pass, taken in turns."""
    for method in methods.values():
        method.score(queries, few)
    units = [_unit(model, data, clock)]
    taken: dict[str, dict[str, list[float]]] = {name: {"all": [], "few": []} for name in methods}
    passes: dict[str, dict[str, int]] = {name: {} for name in methods}
    for _ in range(rounds):
        units.append(_unit(model, data, clock))
        for name, method in methods.items():
            for which, candidates in (("few", few), ("all", data.ids)):
                began = clock()
                method.score(queries, candidates)
                taken[name][which].append(clock() - began)
                passes[name][which] = method.cost.forward_passes
    out: dict[str, dict[str, Any]] = {}
    for name, times in taken.items():
        out[name] = {which: statistics.median(values) for which, values in times.items()}
        out[name]["passes"] = passes[name]
    return statistics.median(units[1:]), out


def _row(name: str, method: Attributor, seconds: dict[str, Any], queries: int) -> dict[str, Any]:
    return {
        "method": name,
        "s/query, all items": seconds["all"] / queries,
        "s/query, candidates": seconds["few"] / queries,
        "passes/query, all": seconds["passes"]["all"],
        "passes/query, candidates": seconds["passes"]["few"],
        "bytes/item": method.cost.bytes_per_item,
        "fit s": method.cost.fit_seconds,
    }


def _labels(
    job: Job, settings: LabelSettings, workers: int, clock: Clock
) -> tuple[list[dict[str, Any]], list[Aim]]:
    """One worker's rate beside the floor of the same moment, then the whole factory, its start included."""
    quiet: Callable[[str], None] = lambda _: None  # noqa: E731
    prepare(job, settings, quiet)
    labeller = Labeller(job.folder)
    teacher = labeller.teacher
    planned = [entry for shard in labeller.plan.values() for entry in shard]
    labeller.label(planned[0])
    shares, rates, floors = [], [], []
    for entry in planned:
        unit = _unit(teacher.model, teacher.data, clock)
        began = clock()
        label = labeller.label(entry)
        seconds = clock() - began
        if label.error is not None:
            raise SystemExit(f"{entry.query}: {label.error}")
        needed = len(entry.candidates) * settings.teacher.columns + settings.teacher.gradient_draws
        floor = needed * unit
        shares.append(floor / seconds)
        rates.append(len(entry.candidates) / seconds)
        floors.append(len(entry.candidates) / floor)
    share = statistics.median(shares)
    rows = [
        {"what": "one worker, pairs/s", "value": statistics.median(rates)},
        {"what": "its floor, pairs/s", "value": statistics.median(floors)},
        {"what": "share of the floor", "value": share},
    ]
    if workers:
        made = make_labels(job, settings, workers=workers, log=quiet)
        rows.append(
            {"what": f"{workers} workers, start included, pairs/s", "value": made.pairs / made.seconds}
        )
    note = "U-Net passes that a label needs, at the bare U-Net's rate, over the time that the label took"
    return rows, [aim("label factory over its floor", share, SHARE, "of 1", share >= SHARE, note)]


if __name__ == "__main__":
    main()
