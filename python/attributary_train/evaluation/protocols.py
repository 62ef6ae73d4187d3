"""The protocols end to end: train what is missing, measure, report."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from attributary_train.errors import EvaluationError
from attributary_train.evaluation.agreement import FRACTIONS, agree
from attributary_train.evaluation.lds import Ceiling, Lds, SubsetPlan, plan_subsets, seed_ceiling
from attributary_train.evaluation.leave_k_out import (
    RANDOM,
    RemovalPlan,
    available,
    measure,
    plan_removals,
    reference_gap,
)
from attributary_train.evaluation.opening import Retraining, Say, Subject
from attributary_train.evaluation.query_loss import Grid, QueryLoss, mean_losses, monte_carlo_error
from attributary_train.evaluation.ranking import Floats, Scores, count_of
from attributary_train.evaluation.regenerate import ENCODER, Regenerator
from attributary_train.evaluation.retrain import RetrainStore
from attributary_train.evaluation.scores import ScoreFile
from attributary_train.evaluation.self_consistency import self_consistency
from attributary_train.evaluation.tables import (
    Row,
    agreement_rows,
    lds_aims,
    lds_tables,
    removal_aims,
    removal_tables,
    report,
)
from attributary_train.subject.queries import Queries
from attributary_train.subject.train import Run


@dataclass(frozen=True)
class SubsetSettings:
    """Settings of an LDS."""

    subsets: int = 32
    second: int = 8
    fraction: float = 0.5
    seed: int = 0
    grid: Grid = field(default_factory=Grid)


def plan_lds(subject: Subject, settings: SubsetSettings) -> SubsetPlan:
    """The runs of an LDS; they depend on no score and can be trained before there is one."""
    return plan_subsets(
        subject.recipe,
        len(subject.data),
        settings.subsets,
        settings.second,
        fraction=settings.fraction,
        seed=settings.seed,
        run_seed=subject.recipe.seed,
    )


def run_lds(
    subject: Subject,
    queries: Queries,
    scores: Mapping[str, Scores],
    retraining: Retraining,
    settings: SubsetSettings,
    best: str | None,
    say: Say,
) -> Row:
    """Train what is missing, and report the LDS of every method. Subsets whose run failed are left out and named."""
    store = RetrainStore(retraining.store, subject.data)
    plan = plan_lds(subject, settings)
    outcome = retraining.run(store, plan.runs, say)
    losses = QueryLoss(queries, settings.grid, store.folder / "losses")
    kept = [at for at, run in enumerate(plan.first) if store.done(run)]
    if len(kept) < 3:
        raise EvaluationError(
            "subsets", f"{len(kept)} of {settings.subsets} runs are there; {_first(outcome.failed)}"
        )
    say(f"losses of {len(queries)} queries under {len(kept)} models")
    cells = [losses.cells(store.load(plan.first[at])) for at in kept]
    outputs = -np.stack([mean_losses(each) for each in cells], axis=1)
    lds = Lds(plan.masks[kept], outputs, seed=settings.seed)
    results = {name: lds.of(values) for name, values in scores.items()}
    tables = lds_tables(results, _ceiling(store, plan, losses), _known(best, results))
    noise = float(np.median([monte_carlo_error(cells[0], other) for other in cells[1:]]))
    tables["noise"] = [
        {
            "what": "deviation of a query's loss over subsets, mean",
            "value": float(outputs.std(axis=1, ddof=1).mean()),
        },
        {"what": "standard error of the loss grid in one difference", "value": noise},
    ]
    config = {
        "protocol": "linear datamodelling score",
        **_config(subject, queries, settings.grid),
        "subsets": settings.subsets,
        "kept_share": settings.fraction,
        "subset_seed": settings.seed,
        "masks_sha256": hashlib.sha256(np.packbits(plan.masks).tobytes()).hexdigest(),
        "trained_twice": settings.second,
        "steps_of_a_subset": plan.first[0].recipe.steps,
        "run_seed": subject.recipe.seed,
        "failed_runs": sorted(outcome.failed),
        "runs": [store.digest(plan.first[at]) for at in kept],
    }
    return report(
        "evaluate-lds", config, tables, lds_aims(results, _known(best, results), len(queries), len(kept))
    )


@dataclass(frozen=True)
class RemovalSettings:
    """Settings of leave-K-out."""

    fractions: tuple[float, ...] = (FRACTIONS[1],)
    random: int = 3
    noise: int = 2
    images: int = 4
    seed: int = 0
    grid: Grid = field(default_factory=Grid)


def plan_leave_k_out(
    subject: Subject, scores: Mapping[str, Scores], settings: RemovalSettings
) -> list[RemovalPlan]:
    """A plan for each K. A file of random scores is left out: random items are removed by shared runs."""
    removed = {name: values for name, values in scores.items() if name != RANDOM}
    total = len(subject.data)
    return [
        plan_removals(
            subject.recipe,
            total,
            removed,
            count,
            random=settings.random,
            noise=settings.noise,
            seed=settings.seed,
            run_seed=subject.recipe.seed,
        )
        for count in sorted({count_of(fraction, total) for fraction in settings.fractions})
    ]


def run_leave_k_out(
    subject: Subject,
    queries: Queries,
    scores: Mapping[str, Scores],
    retraining: Retraining,
    settings: RemovalSettings,
    best: str | None,
    say: Say,
) -> Row:
    """Train what is missing, and report every K. A query with a failed run is left out for every method, and named."""
    store = RetrainStore(retraining.store, subject.data)
    plans = plan_leave_k_out(subject, scores, settings)
    retraining.run(store, [run for plan in plans for run in plan.runs], say)
    tables: Row = {}
    aims: list[Row] = []
    left_out: dict[str, list[str]] = {}
    for plan in plans:
        ready, kept = available(plan, store)
        left_out[f"K = {plan.count}"] = [name for at, name in enumerate(queries.names) if at not in set(kept)]
        queries_kept = queries.take(kept)
        losses = QueryLoss(queries_kept, settings.grid, store.folder / "losses")
        pictures = (
            Regenerator(queries_kept, subject.autoencoder, images=settings.images)
            if settings.images
            else None
        )
        found = measure(store, ready, losses, pictures, say)
        known = _known(best, found.removals)
        tables |= {f"K = {plan.count}: {title}": rows for title, rows in removal_tables(found, known).items()}
        aims += removal_aims(found, known)
    losses = QueryLoss(queries, settings.grid, store.folder / "losses")
    gap = reference_gap(store, subject.recipe, subject.model, losses, subject.recipe.seed)
    tables["base run against the reference model"] = [
        {"what": "loss of a query, mean", "value": float(gap.mean())}
    ]
    config = {
        "protocol": "leave-K-out",
        **_config(subject, queries, settings.grid),
        "K": [plan.count for plan in plans],
        "queries_left_out": left_out,
        "random_runs": settings.random,
        "noise_runs": settings.noise,
        "removal_seed": settings.seed,
        "run_seed": subject.recipe.seed,
        "images_per_query": settings.images,
        "similarity": f"cosine of {ENCODER} features",
    }
    return report("evaluate-leave-k-out", config, tables, aims)


def run_agreement(truth: ScoreFile, methods: Sequence[ScoreFile], fractions: Sequence[float]) -> Row:
    """How well each method reproduces `truth` on the truth's queries."""
    rows = []
    for file in methods:
        if file.weights != truth.weights:
            raise EvaluationError(
                f"{file.method}.weights", f"{file.weights[:12]}, but truth is of {truth.weights[:12]}"
            )
        rows += agreement_rows(
            file.method, agree(truth.scores, file.aligned(truth.queries, truth.ids, truth.digests), fractions)
        )
    config = {
        "protocol": "agreement",
        "truth": truth.method,
        **_file_config(truth),
        "fractions": list(fractions),
    }
    return report("evaluate-agreement", config, {"agreement": rows}, [])


def run_self_consistency(first: ScoreFile, second: ScoreFile, fractions: Sequence[float]) -> Row:
    """How well a teacher reproduces itself under other noise."""
    rows = agreement_rows(first.method, self_consistency(first, second, fractions))
    config = {"protocol": "self-consistency", "method": first.method, **_file_config(first)}
    shared = len(set(first.queries) & set(second.queries))
    config |= {"second": second.method, "queries": shared, "fractions": list(fractions)}
    return report("evaluate-self-consistency", config, {"self-consistency": rows}, [])


def _ceiling(store: RetrainStore, plan: SubsetPlan, losses: QueryLoss) -> Ceiling | None:
    pairs = [(a, b) for a, b in zip(plan.first, plan.second, strict=False) if store.done(a) and store.done(b)]
    if len(pairs) < 3:
        return None

    def outputs(runs: Sequence[Run]) -> Floats:
        return -np.stack([mean_losses(losses.cells(store.load(run))) for run in runs], axis=1)

    return seed_ceiling(outputs([a for a, _ in pairs]), outputs([b for _, b in pairs]))


def _known(best: str | None, results: Mapping[str, object]) -> str | None:
    return best if best in results else None


def _first(failed: Mapping[str, str]) -> str:
    return next((f"run {name}: {reason}" for name, reason in failed.items()), "no run failed")


def _config(subject: Subject, queries: Queries, grid: Grid) -> Row:
    return {
        "model": subject.model.weights,
        "recipe": subject.recipe.name,
        "steps": subject.recipe.steps,
        "items": len(subject.data),
        "queries": len(queries),
        "split": ", ".join(sorted(set(queries.splits))),
        "loss_grid": f"{grid.timesteps} timesteps x {grid.draws} draws",
        "intervals": "percentile bootstrap, 95%",
    }


def _file_config(file: ScoreFile) -> Row:
    return {"model": file.weights, "queries": len(file.queries), "items": len(file.ids)}
