"""Creators against leave-one-creator-out: do summed scores say what a query loses when a creator is not learnt?

Unlearning one item at a time and leaving out a creator are different questions: pay is per creator.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from attributary_train.errors import EvaluationError
from attributary_train.evaluation.bench import DRAWS, World, arrays, rows_of
from attributary_train.evaluation.ranking import Floats, spearman_rows
from attributary_train.evaluation.stats import Interval, percentile_interval, resamples
from attributary_train.files import reading

# Fewer creators make no rank correlation.
LEAST = 8
# Of all pairs of a query and a creator, those with the most: a creator of ten works matters to few queries.
LEADING = 0.02


@dataclass(frozen=True)
class Creators:
    """names: C creators; member: bool [C, N], whose items are whose; effect: float64 [Q, C], how much a query's loss
    rises without a creator's items, the mean over seeds of the difference to the model of all items of that seed."""

    names: tuple[str, ...]
    member: npt.NDArray[np.bool_]
    effect: Floats


def open_creators(folder: Path, world: World) -> Creators | None:
    """Creators that were left out in at least one training of the split's queries; None if there are too few."""
    table = arrays(folder / f"losses-{world.split}.npz")
    with reading(folder, EvaluationError, "not a benchmark"):
        names = json.loads((folder / "truth.json").read_text()).get("creators", [])
        creator = {row["id"]: row["creator"] for row in rows_of(folder / "items.parquet")}
        losses = dict(zip(table["runs"].tolist(), table["losses"].astype(np.float64), strict=True))
    found: list[tuple[str, Floats]] = []
    for number, name in enumerate(names):
        gaps = [
            losses[run] - losses[f"whole-{seed:03d}"]
            for seed in range(10)
            if (run := f"creator-{number:03d}-{seed}") in losses and f"whole-{seed:03d}" in losses
        ]
        if gaps:
            found.append((name, np.mean(gaps, axis=0)))
    if len(found) < LEAST:
        return None
    hands = np.array([creator[number] for number in world.ids.tolist()])
    member = np.stack([hands == name for name, _ in found])
    return Creators(tuple(name for name, _ in found), member, np.stack([gap for _, gap in found], axis=1))


class CreatorBench:
    """Rank correlation over creators, mean over queries: these are drawn with replacement, half of those without."""

    def __init__(self, creators: Creators, draws: int = DRAWS, seed: int = 0) -> None:
        self.creators = creators
        count = len(creators.names)
        rng = np.random.default_rng((seed, count))
        self._some = [np.sort(rng.permutation(count)[: count // 2]) for _ in range(draws)]
        self._queries = resamples(len(creators.effect), draws, seed)

    def of(self, amounts: Floats) -> Interval:
        """Of amounts [Q, N] summed over each creator's items."""
        sums = amounts @ self.creators.member.T.astype(np.float64)
        value = float(spearman_rows(sums, self.creators.effect).mean())
        drawn = np.array(
            [
                spearman_rows(sums[:, some], self.creators.effect[:, some])[queries].mean()
                for some, queries in zip(self._some, self._queries, strict=True)
            ]
        )
        return percentile_interval(value, drawn - drawn.mean() + value)

    def centred(self) -> Floats:
        """Effects [Q, C] less their mean over creators, which is noise of seeds, and over queries, which is size."""
        effect = self.creators.effect - self.creators.effect.mean(axis=1, keepdims=True)
        centred: Floats = effect - effect.mean(axis=0)
        return centred

    def leading(self, amounts: Floats) -> Interval:
        """What queries lose where `amounts` [Q, N] give a creator most, over the spread of all effects.

        0 for amounts that say nothing; far below 1 where one training cannot tell a creator's effect.
        """
        effect = self.centred()
        sums = amounts @ self.creators.member.T.astype(np.float64)
        sums = sums / np.abs(sums).sum(axis=1, keepdims=True).clip(1e-12)
        most = sums >= np.quantile(sums, 1.0 - LEADING)
        spread = max(float(effect.std()), 1e-12)

        def mean(rows: npt.NDArray[np.int64]) -> float:
            chosen = most[rows]
            return float(effect[rows][chosen].mean() / spread) if chosen.any() else 0.0

        drawn = np.array([mean(rows) for rows in self._queries])
        return percentile_interval(mean(np.arange(len(effect))), drawn)

    def counts(self) -> Interval:
        """What mere numbers of items say: the constant that shares have to beat."""
        items = np.ones(self.creators.member.shape[1])
        return self.of(np.broadcast_to(items, (len(self.creators.effect), len(items))))
