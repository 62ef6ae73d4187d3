"""The linear datamodelling score: do summed scores predict what models trained on random halves do?

Park et al., "TRAK" (ICML 2023), section 2. It asks for additive scores: the authors of unlearning attribution hold that
theirs are not (Wang et al., NeurIPS 2024), so it is shown beside leave-K-out, not instead of it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import rankdata  # type: ignore[import-untyped]

from attributary_train.errors import EvaluationError
from attributary_train.evaluation.ranking import Floats, Scores, pearson_rows, spearman_rows
from attributary_train.evaluation.retrain import Mask
from attributary_train.evaluation.stats import Interval, percentile_interval, resamples
from attributary_train.subject.recipe import Recipe
from attributary_train.subject.train import Run

# Resamples of the subsets are rank correlations anew, so there are fewer than of a plain mean.
DRAWS = 1000
# Added to both seeds of a subset's second run.
SECOND_SEED = 1_000


def random_subsets(total: int, count: int, *, fraction: float = 0.5, seed: int = 0) -> Mask:
    """Masks bool [count, total], each keeping round(fraction * total) random items; row m is the same for any count."""
    if not 0.0 < fraction < 1.0:
        raise EvaluationError("fraction", f"{fraction}; must be between 0 and 1")
    if count < 3:
        raise EvaluationError("subsets", f"{count}; a rank correlation needs at least 3")
    kept = round(fraction * total)
    if not 1 <= kept < total:
        raise EvaluationError(
            "fraction", f"{fraction} of {total} items keeps {kept}; must keep some and leave some"
        )
    masks = np.zeros((count, total), bool)
    for row in range(count):
        masks[row, np.random.default_rng((seed, row)).permutation(total)[:kept]] = True
    return masks


@dataclass(frozen=True)
class SubsetPlan:
    """Runs of an LDS: `first[m]` for every subset, `second[m]` with other seeds for the first few."""

    masks: Mask
    first: tuple[Run, ...]
    second: tuple[Run, ...]

    @property
    def runs(self) -> list[Run]:
        """All runs, those that the score needs first."""
        return [*self.first, *self.second]


def plan_subsets(
    recipe: Recipe,
    total: int,
    count: int,
    second: int,
    *,
    fraction: float = 0.5,
    seed: int = 0,
    run_seed: int = 0,
) -> SubsetPlan:
    """Plan `count` subsets, the first `second` of them trained once more with another start, other batches and noise.

    All first runs share start and batch order, so that what differs between them is what they were trained on. Steps
    shrink with the subset: every kept item is seen as often as in the full run (epochs fixed, as Ilyas et al.,
    "Datamodels", ICML 2022, and TRAK do). At fixed steps half-trained sets would be learned by heart twice as well.
    """
    if not 0 <= second <= count:
        raise EvaluationError("second", f"{second} subsets trained twice, of {count}")
    masks = random_subsets(total, count, fraction=fraction, seed=seed)
    recipe = replace(recipe, steps=max(1, round(recipe.steps * int(masks[0].sum()) / total)))
    first = tuple(Run(recipe, mask, run_seed, run_seed) for mask in masks)
    other = run_seed + SECOND_SEED
    return SubsetPlan(masks, first, tuple(Run(recipe, mask, other, other) for mask in masks[:second]))


def predictions(scores: Scores, masks: Mask) -> Floats:
    """Summed scores of the kept items, float64 [Q, M], from scores [Q, N] and masks [M, N]."""
    if scores.shape[1] != masks.shape[1]:
        raise EvaluationError("scores", f"{scores.shape[1]} items, but the subsets are of {masks.shape[1]}")
    # Centred first: every subset keeps as many items, so a common offset tells nothing and costs digits.
    centred = scores.astype(np.float64) - scores.mean(axis=1, keepdims=True, dtype=np.float64)
    sums: Floats = centred @ masks.T.astype(np.float64)
    return sums


def lds_rows(scores: Scores, masks: Mask, outputs: Floats) -> Floats:
    """LDS of every query, float64 [Q]: Spearman over subsets between predictions and outputs.

    outputs: float64 [Q, M], minus the loss of query q under the model of subset m (larger = the query is likelier).
    """
    if outputs.shape != (len(scores), len(masks)):
        raise EvaluationError(
            "outputs", f"shape {outputs.shape}; must be [{len(scores)} queries, {len(masks)} subsets]"
        )
    return spearman_rows(predictions(scores, masks), outputs)


@dataclass(frozen=True)
class LdsResult:
    """Mean LDS with three intervals: queries resampled, subsets resampled, both. `draws` are the means of resamples of
    both, so that methods can be compared resample by resample."""

    by_queries: Interval
    by_subsets: Interval
    by_both: Interval
    rows: Floats
    draws: Floats


class Lds:
    """The score of any number of methods on the same retrained models.

    outputs: float64 [Q, M]; masks: bool [M, N]. The same queries and subsets are resampled for every method.
    """

    def __init__(self, masks: Mask, outputs: Floats, *, draws: int = DRAWS, seed: int = 0) -> None:
        if not np.isfinite(outputs).all():
            raise EvaluationError("outputs", f"{int((~np.isfinite(outputs)).sum())} losses are not finite")
        if outputs.ndim != 2 or outputs.shape[1] != len(masks):
            raise EvaluationError(
                "outputs", f"shape {outputs.shape}; must be [queries, {len(masks)} subsets]"
            )
        self.masks, self.outputs = masks, outputs
        self._queries = resamples(len(outputs), draws, seed)
        self._subsets = resamples(len(masks), draws, seed + 1)
        # The same for every method, and half of the work.
        self._ranked = [rankdata(outputs[:, subset], axis=1) for subset in self._subsets]

    def of(self, scores: Scores) -> LdsResult:
        """LDS of a method's scores [Q, N]."""
        rows = lds_rows(scores, self.masks, self.outputs)
        predicted = predictions(scores, self.masks)
        # [draws, Q]: a query's correlation over each resample of the subsets.
        redrawn = np.stack(
            [
                pearson_rows(rankdata(predicted[:, subset], axis=1), ranked)
                for subset, ranked in zip(self._subsets, self._ranked, strict=True)
            ]
        )
        both = np.take_along_axis(redrawn, self._queries, axis=1).mean(axis=1)
        value = float(rows.mean())
        return LdsResult(
            percentile_interval(value, rows[self._queries].mean(axis=1)),
            percentile_interval(value, redrawn.mean(axis=1)),
            percentile_interval(value, both),
            rows,
            both,
        )


def difference(first: LdsResult, second: LdsResult) -> Interval:
    """Difference of two methods' LDS, queries and subsets resampled together for both."""
    return percentile_interval(float(first.rows.mean() - second.rows.mean()), first.draws - second.draws)


@dataclass(frozen=True)
class Ceiling:
    """What retraining noise leaves of the score. `agreement`: mean Spearman over subsets between two seeds' outputs;
    `reachable`: its square root, what a perfect prediction of the expected output would score against one seed
    (Spearman's attenuation formula, 1904); `subsets`: how many were trained twice."""

    agreement: Interval
    reachable: float
    subsets: int


def seed_ceiling(first: Floats, second: Floats, *, seed: int = 0) -> Ceiling:
    """Ceiling from outputs of the same subsets under two seeds, float64 [Q, S] each; queries are resampled."""
    if first.shape != second.shape:
        raise EvaluationError("ceiling", f"shapes {first.shape} and {second.shape}; must be the same subsets")
    if first.shape[1] < 3:
        raise EvaluationError(
            "ceiling", f"{first.shape[1]} subsets trained twice; a rank correlation needs at least 3"
        )
    rows = spearman_rows(first, second)
    interval = percentile_interval(float(rows.mean()), rows[resamples(len(rows), seed=seed)].mean(axis=1))
    return Ceiling(interval, float(np.sqrt(max(0.0, interval.value))), first.shape[1])
