"""Leave-K-out: take a method's K most influential items away, train from scratch, and see what the model lost.

Wang et al. (NeurIPS 2024; 2025, section 4.1). For a query z, dL = L(z; without) - L(z; with), the rise of its loss,
and dG, how far its picture moves when it is generated again. Both runs share start, batch order and noise, so that what
differs is what was removed. Removing random items, and training on everything with other seeds, show what is noise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from attributary_train.errors import EvaluationError
from attributary_train.evaluation.query_loss import QueryLoss, mean_losses, monte_carlo_error
from attributary_train.evaluation.ranking import Floats, Scores, top_rows
from attributary_train.evaluation.regenerate import Change, Regenerator, change
from attributary_train.evaluation.retrain import RetrainStore, full_run
from attributary_train.evaluation.stats import Interval, mean_interval, paired_interval
from attributary_train.subject.model import SubjectModel
from attributary_train.subject.recipe import Recipe
from attributary_train.subject.train import Run

RANDOM, OTHER_SEEDS = "random", "nothing, other seeds"
MEASURES = ("loss", "mse", "similarity")
# The seeds of noise runs; far from those of subsets trained twice.
_NOISE_SEED = 10_000


@dataclass(frozen=True)
class RemovalPlan:
    """Runs of one K. `base`: everything; `methods[name][q]`: without the top K of query q; `random`: without K random
    items, shared by all queries; `noise`: everything, with other seeds."""

    count: int
    base: Run
    methods: dict[str, tuple[Run, ...]]
    random: tuple[Run, ...]
    noise: tuple[Run, ...]

    @property
    def runs(self) -> list[Run]:
        """All runs, the shared ones first, then query by query, so that an early stop leaves whole queries."""
        each = [run for row in zip(*self.methods.values(), strict=True) for run in row]
        return [self.base, *self.random, *self.noise, *each]


def plan_removals(
    recipe: Recipe,
    total: int,
    scores: Mapping[str, Scores],
    count: int,
    *,
    random: int = 3,
    noise: int = 2,
    seed: int = 0,
    run_seed: int = 0,
) -> RemovalPlan:
    """Plan the removal of each method's `count` best items for each query; scores by method, [Q, N] each."""
    if not 1 <= count < total:
        raise EvaluationError(
            "K", f"{count}; must be between 1 and {total - 1}, one less than the training set"
        )
    if random < 1:
        raise EvaluationError("random", f"{random}; removals mean little without a random one beside them")
    if not scores:
        raise EvaluationError("scores", "there is no method whose items could be removed")
    if RANDOM in scores:
        raise EvaluationError("scores", f"{RANDOM!r} is removed as it is, by shared runs: leave its file out")

    def lacking(rows: npt.NDArray[np.int64]) -> Run:
        mask = np.ones(total, bool)
        mask[rows] = False
        return Run(recipe, mask, run_seed, run_seed)

    methods = {
        name: tuple(lacking(top) for top in top_rows(values, count)) for name, values in scores.items()
    }
    if len({len(runs) for runs in methods.values()}) > 1:
        raise EvaluationError("scores", "the methods scored different numbers of queries")
    drawn = [np.random.default_rng((seed, count, at)).permutation(total)[:count] for at in range(random)]
    everything = np.ones(total, bool)
    others = [run_seed + _NOISE_SEED + at for at in range(noise)]
    return RemovalPlan(
        count,
        Run(recipe, everything, run_seed, run_seed),
        methods,
        tuple(lacking(rows) for rows in drawn),
        tuple(Run(recipe, everything, other, other) for other in others),
    )


def available(plan: RemovalPlan, store: RetrainStore) -> tuple[RemovalPlan, list[int]]:
    """The part of a plan that is trained, and the positions of its queries: those with every method's run.

    Raises `EvaluationError` if the base run, every random run, or every query is lacking.
    """
    store.facts(plan.base)
    count = min(len(runs) for runs in plan.methods.values())
    kept = [at for at in range(count) if all(store.done(runs[at]) for runs in plan.methods.values())]
    random = tuple(run for run in plan.random if store.done(run))
    if not random:
        store.facts(plan.random[0])
    if not kept:
        first = next(iter(plan.methods.values()))[0]
        raise EvaluationError("queries", f"none has a run of every method, e.g. {store.failure(first)}")
    methods = {name: tuple(runs[at] for at in kept) for name, runs in plan.methods.items()}
    noise = tuple(run for run in plan.noise if store.done(run))
    return RemovalPlan(plan.count, plan.base, methods, random, noise), kept


@dataclass(frozen=True)
class Removal:
    """What the removal did to each query, float64 [Q]: `loss` rises, `mse` rises, `similarity` falls with influence."""

    loss: Floats
    mse: Floats
    similarity: Floats

    def intervals(self) -> dict[str, Interval]:
        """Means over queries."""
        return {name: mean_interval(getattr(self, name)) for name in MEASURES}

    def minus(self, other: Removal) -> dict[str, Interval]:
        """Paired differences over queries."""
        return {name: paired_interval(getattr(self, name), getattr(other, name)) for name in MEASURES}


@dataclass(frozen=True)
class LeaveKOut:
    """Results of one K by name; `random` and `nothing, other seeds` are means over their runs. `spread[name]`: standard
    deviation of dL over those runs, averaged over queries: the noise of one retraining. `grid_error`: standard error
    that the loss grid leaves in one dL."""

    count: int
    removals: dict[str, Removal]
    spread: dict[str, float]
    grid_error: float


def measure(
    store: RetrainStore,
    plan: RemovalPlan,
    losses: QueryLoss,
    pictures: Regenerator | None,
    say: Callable[[str], None] | None = None,
) -> LeaveKOut:
    """Measure a plan whose runs are trained; without `pictures`, mse and similarity are 0 and nothing is generated.

    Raises `EvaluationError` naming a run that is missing or failed.
    """
    return _Measurement(store, plan, losses, pictures, say or (lambda line: None)).result()


class _Measurement:
    def __init__(
        self,
        store: RetrainStore,
        plan: RemovalPlan,
        losses: QueryLoss,
        pictures: Regenerator | None,
        say: Callable[[str], None],
    ) -> None:
        self.store, self.plan, self.losses, self.pictures, self.say = store, plan, losses, pictures, say
        base = store.load(plan.base)
        self.base_cells = losses.cells(base)
        self.base_pictures = None if pictures is None else pictures.pictures(base)

    def result(self) -> LeaveKOut:
        removals, spread = {}, {}
        for name, runs in ((RANDOM, self.plan.random), (OTHER_SEEDS, self.plan.noise)):
            if runs:
                each = [self._removal(run, None) for run in runs]
                removals[name] = Removal(
                    *(np.mean([getattr(one, measure) for one in each], axis=0) for measure in MEASURES)
                )
                if len(runs) > 1:
                    spread[name] = float(np.std([one.loss for one in each], axis=0, ddof=1).mean())
        for name, runs in self.plan.methods.items():
            self.say(f"leave-{self.plan.count}-out: {name}")
            each = [self._removal(run, query) for query, run in enumerate(runs)]
            removals[name] = Removal(
                *(np.concatenate([getattr(one, measure) for one in each]) for measure in MEASURES)
            )
        errors = [
            monte_carlo_error(self.base_cells, self.losses.cells(self.store.load(run)))
            for run in self.plan.random
        ]
        return LeaveKOut(self.plan.count, removals, spread, float(np.mean(errors)))

    def _removal(self, run: Run, query: int | None) -> Removal:
        """All queries under a shared run, or the one query that the run belongs to."""
        model = self.store.load(run)
        rows = list(range(len(self.losses.queries))) if query is None else [query]
        rise = (mean_losses(self.losses.cells(model)) - mean_losses(self.base_cells))[rows]
        moved = self._change(model, rows)
        return Removal(rise, moved.mse, moved.similarity)

    def _change(self, model: SubjectModel, rows: Sequence[int]) -> Change:
        if self.pictures is None or self.base_pictures is None:
            return Change(np.zeros(len(rows)), np.zeros(len(rows)))
        return change(self.base_pictures.take(rows), self.pictures.pictures(model, rows))


def reference_gap(
    store: RetrainStore, recipe: Recipe, reference: SubjectModel, losses: QueryLoss, seed: int
) -> Floats:
    """Loss of each query under the full retrained model minus that under the model that made it, float64 [Q].

    Near zero where the store's base run repeats the reference model's training; else the queries belong to a model
    that the runs do not start from, and the pairing is only among the runs.
    """
    base = store.load(full_run(recipe, store.data, seed, seed))
    return mean_losses(losses.cells(base)) - mean_losses(losses.cells(reference))
