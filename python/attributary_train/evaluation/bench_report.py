"""The benchmark's report: every method's LDS, beside what a constant, chance and the simplest rivals score."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from attributary_train.errors import EvaluationError
from attributary_train.files import whole

from .bench import (
    MEASURES,
    Bench,
    Figure,
    TooFewPairsError,
    World,
    by_amount,
    by_order,
    constant_scores,
    open_world,
    read_scores,
    seed_agreement,
)
from .bench_creators import CreatorBench, open_creators
from .left_out import left_out_rows, open_left_out
from .ranking import Floats
from .tables import ends_row, interval_row, report

# Score files of the simplest rivals lie in <world>/rivals/<split>, in half precision.
RIVALS = "rivals"
CONSTANT, CHANCE = "constant", "chance"
AIM_MEASURE = "order"


def judge(
    folder: Path,
    split: str,
    score_files: Sequence[Path],
    *,
    rivals: Path | None = None,
    kinds: Sequence[str] = (),
    draws: int = 400,
    rows_to: Path | None = None,
    after: int = 0,
) -> dict[str, Any]:
    """The report that `attributary-train bench` prints: results by method and measure, and differences by order.

    `after`: the first so many halves judge nothing, for a method that learnt from them.

    Raises `EvaluationError` if a file does not fit the benchmark, or two have a method's name.
    """
    everything = open_world(folder, split, after)
    chosen = _rows_of(everything, kinds)
    world = _taken(everything, chosen)
    bench = Bench(world, draws)
    own = [CONSTANT, CHANCE]
    methods: dict[str, Floats] = {
        CONSTANT: constant_scores(open_world(folder, "train", after), len(world.names)),
        CHANCE: np.random.default_rng(0).random((len(world.names), len(world.ids))),
    }
    place = rivals or folder / RIVALS / split
    simple = sorted(place.glob("*.npz")) if place.is_dir() else []
    for path in (*simple, *score_files):
        name, scores = read_scores(path, everything)
        if path in simple:
            own.append(name)
        if name in methods:
            if path in simple or name not in own:
                raise EvaluationError(str(path), f"is a second file of method {name!r}")
            continue
        methods[name] = scores[chosen]
    figures = {name: _figures(bench, scores, world) for name, scores in methods.items()}
    compared = [name for name in methods if name not in own] or own
    best = max(own, key=lambda name: figures[name][AIM_MEASURE].interval.value)
    if rows_to is not None:
        table: dict[str, Any] = {
            f"{name}/{measure}": one.rows for name, row in figures.items() for measure, one in row.items()
        }
        with whole(rows_to, EvaluationError) as stream:
            np.savez(stream, queries=np.array(world.names), **table)
    config = {
        "world": folder.name,
        "split": split,
        "kinds": sorted(set(world.kinds)),
        "queries": len(world.names),
        "items": len(world.ids),
        "subsets": len(world.kept),
        "after": after,
        "draws": draws,
    }
    tables = _tables(bench, world, figures, compared, best)
    if (folder / "plan-creators.npz").exists():
        with suppress(TooFewPairsError):
            hands = _taken(open_world(folder, split, by="creators"), chosen)
            tables["halves that hold whole creators"] = _by_creator(Bench(hands, draws), methods, best)
    creators = open_creators(folder, everything)
    if creators is not None:
        some = replace(creators, effect=creators.effect[chosen])
        tables["creators, against leave-one-creator-out"] = _creators(CreatorBench(some, draws), methods)
    left_out = open_left_out(folder, everything)
    if left_out is not None:
        tables["leave-K-out, in groups"] = left_out_rows(left_out, own)
    return report("bench", config, tables, ())


def _by_creator(bench: Bench, methods: dict[str, Floats], best: str) -> list[dict[str, Any]]:
    """LDS where a half keeps or lacks all of a creator; such halves have as many items, so that counting these is worth
    0. `difference`: from the best of features and constants by order over the other halves."""
    figures = {name: _figures(bench, scores, bench.world) for name, scores in methods.items()}
    rows = []
    for name in sorted(figures, key=lambda name: -figures[name][AIM_MEASURE].interval.value):
        for measure in ("raw", "order", "amount"):
            row = {"method": name, "measure": measure, **interval_row(figures[name][measure].interval)}
            if name != best:
                gap = bench.difference(figures[name][measure], figures[best][measure])
                row |= {"less": best, **ends_row("difference", gap)}
            rows.append(row)
    return rows


def _creators(bench: CreatorBench, methods: dict[str, Floats]) -> list[dict[str, Any]]:
    """Summed amounts by order and by amount; the constant here is a creator's number of items. `leading`: what is lost
    where the amounts give a creator most, in spreads of all effects; it says what these trainings can tell at all."""
    rows: list[dict[str, Any]] = [
        {"method": "number of items", "measure": "count", **interval_row(bench.counts())},
        {"method": "spread of effects", "measure": "loss", "value": round(float(bench.centred().std()), 6)},
    ]
    for name, scores in methods.items():
        if name == CONSTANT:
            continue
        for measure, amounts in (("order", by_order(scores)), ("amount", by_amount(scores))):
            rows.append({"method": name, "measure": measure, **interval_row(bench.of(amounts))})
        rows.append({"method": name, "measure": "leading", **interval_row(bench.leading(by_amount(scores)))})
    return sorted(rows, key=lambda row: -row["value"])


def _tables(
    bench: Bench, world: World, figures: dict[str, dict[str, Figure]], compared: Sequence[str], best: str
) -> dict[str, Any]:
    order = sorted(figures, key=lambda name: -figures[name][AIM_MEASURE].interval.value)
    methods, kinds, gaps = [], [], []
    for name in order:
        row: dict[str, Any] = {"method": name}
        for measure, figure in figures[name].items():
            row |= ends_row(measure, figure.interval)
        methods.append(row)
        kinds.append({"method": name, **_by_kind(figures[name], world)})
        if name in compared and name != best:
            for measure in MEASURES:
                found = bench.difference(figures[name][measure], figures[best][measure])
                gaps.append({"method": name, "minus": best, "measure": measure, **interval_row(found)})
    agreement = seed_agreement(world)
    reachable = None if agreement is None else max(0.0, agreement) ** 0.5
    return {
        "methods": methods,
        "order, by kind of query": kinds,
        "differences": gaps,
        "ceiling": [{"two seeds agree": agreement, "reachable": reachable, "subsets": len(world.twice)}],
    }


def keep(world: World, place: Path, score_files: Sequence[Path]) -> list[Path]:
    """Keep score files in half precision in a folder; returns where. They are judged without what made them."""
    out = []
    for path in score_files:
        name, scores = read_scores(path, world)
        # Half precision has three digits: differences are kept, not offsets.
        rise = scores - scores.mean(axis=1, keepdims=True)
        rise /= np.maximum(np.abs(rise).max(axis=1, keepdims=True), 1e-300)
        parts = {
            "scores": rise.astype(np.float16),
            "queries": np.array(world.names),
            "ids": world.ids,
            "about": np.array(json.dumps({"method": name, "query_digests": world.digests})),
        }
        out.append(place / f"{name.replace(' ', '-')}.npz")
        with whole(out[-1], EvaluationError) as stream:
            np.savez_compressed(stream, **parts)
    return out


def _rows_of(world: World, kinds: Sequence[str]) -> list[int]:
    unknown = sorted(set(kinds) - set(world.kinds))
    if unknown:
        raise EvaluationError("kind", f"{unknown[0]!r}; there are {', '.join(sorted(set(world.kinds)))}")
    return [row for row, kind in enumerate(world.kinds) if not kinds or kind in kinds]


def _taken(world: World, rows: Sequence[int]) -> World:
    pick = list(rows)
    named: dict[str, Any] = {
        name: tuple(getattr(world, name)[row] for row in pick)
        for name in ("names", "kinds", "prompts", "digests")
    }
    return replace(world, outputs=world.outputs[pick], again=world.again[pick], **named)


def _figures(bench: Bench, scores: Floats, world: World) -> dict[str, Figure]:
    return {name: bench.of(amounts(scores, world)) for name, amounts in MEASURES.items()}


def _by_kind(row: dict[str, Figure], world: World) -> dict[str, float]:
    kinds = np.array(world.kinds)
    means = {kind: row[AIM_MEASURE].rows[kinds == kind].mean() for kind in sorted(set(world.kinds))}
    return {kind: round(float(mean), 4) for kind, mean in means.items()}
