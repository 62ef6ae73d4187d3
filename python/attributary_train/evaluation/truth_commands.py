"""`attributary-train evaluate score|retrain|lds|leave-k-out|agreement|self-consistency`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from attributary_train.console import FILE, FOLDER, OUT, on_threads
from attributary_train.errors import EvaluationError
from attributary_train.files import write_text

from .options import GRID, METHODS, MODEL, OUTPUT, PLAN, QUERY_FILE, RETRAIN, SPLIT, say, setting, show

if TYPE_CHECKING:
    from .opening import Subject


@click.command("score")
@click.option("--method", required=True, help="A name of the registry, or one that is unknown to list them.")
@MODEL
@QUERY_FILE
@SPLIT
@click.option(
    "--set", "settings", multiple=True, metavar="NAME=VALUE", help="A setting of the method; repeat."
)
@click.option("--name", help="Name in the file and in tables, instead of the method's.")
@click.option("--chunk", default=16, show_default=True, help="Queries scored and kept at a time.")
@click.option("--device", default="cpu", show_default=True, help="cpu or cuda: where the generator runs.")
@click.option("--out", type=OUT, required=True, help="Score file to write (.npz).")
@on_threads
def score(
    method: str,
    subject_dir: Path,
    corpus_dir: Path,
    cache: Path,
    query_file: Path,
    split: str,
    limit: int | None,
    settings: tuple[str, ...],
    name: str | None,
    chunk: int,
    device: str,
    out: Path,
) -> None:
    """Score every training item for a split's queries with one method; a killed run goes on where it was."""
    import torch

    from ..subject.run import checked_device
    from ..teacher.registry import Context, create
    from .opening import Subject
    from .scoring import score_to_file

    checked_device(device)
    chosen = dict(setting(entry) for entry in settings)
    subject = Subject.open(subject_dir, corpus_dir, cache)
    queries = subject.queries(query_file, split, limit)
    context = Context(subject_dir, subject.corpus, cache, torch.get_num_threads(), device)
    attributor = create(method, context, chosen)
    subject.model.unet.to(device)
    file = score_to_file(
        attributor,
        name or method,
        subject.data,
        subject.model,
        queries,
        out,
        settings=chosen,
        chunk=chunk,
        say=say,
    )
    cost = file.facts["cost"]
    click.echo(
        f"{out}: {len(file.queries)} queries x {len(file.ids)} items, {cost['query_seconds']:.3g} s a query"
    )


@click.command("retrain")
@click.option(
    "--plan", "plan_file", type=FILE, required=True, help="Runs, as lds or leave-k-out --plan wrote them."
)
@MODEL
@RETRAIN
@on_threads
def retrain(plan_file: Path, subject_dir: Path, corpus_dir: Path, cache: Path, **retraining: Any) -> None:
    """Train the runs of a plan into a store; a killed run goes on where it was."""
    from .opening import Retraining, Subject, plan_from_json
    from .retrain import RetrainStore

    subject = Subject.open(subject_dir, corpus_dir, cache)
    runs = plan_from_json(subject, plan_file)
    how = Retraining(**retraining)
    outcome = how.run(RetrainStore(how.store, subject.data), runs, say)
    for name, reason in outcome.failed.items():
        click.echo(f"failed: {name}: {reason}", err=True)
    click.echo(f"{outcome.trained} runs trained, {outcome.reused} there before, {len(outcome.failed)} failed")


@click.command("lds")
@MODEL
@click.option("--queries", "query_file", type=FILE, help="File of `subject queries`; not needed with --plan.")
@SPLIT
@METHODS
@RETRAIN
@GRID
@click.option("--subsets", default=32, show_default=True, help="Random subsets to train on.")
@click.option(
    "--second", default=8, show_default=True, help="How many of them are trained with a second seed."
)
@click.option("--fraction", default=0.5, show_default=True, help="Share of the items in a subset.")
@click.option("--seed", default=0, show_default=True, help="Of the subsets.")
@PLAN
@OUTPUT
@on_threads
def lds(
    subject_dir: Path,
    corpus_dir: Path,
    cache: Path,
    query_file: Path | None,
    split: str,
    limit: int | None,
    score_files: tuple[Path, ...],
    best: str,
    timesteps: int,
    draws: int,
    subsets: int,
    second: int,
    fraction: float,
    seed: int,
    plan_file: Path | None,
    as_json: bool,
    out: Path | None,
    **retraining: Any,
) -> None:
    """Linear datamodelling score of each method, on retrained models that all methods share."""
    from .opening import Retraining, Subject
    from .protocols import SubsetSettings, plan_lds, run_lds
    from .query_loss import Grid

    settings = SubsetSettings(subsets, second, fraction, seed, Grid(timesteps, draws))
    subject = Subject.open(subject_dir, corpus_dir, cache)
    if plan_file is not None:
        _write_plan(subject, plan_lds(subject, settings).runs, plan_file)
        return
    if query_file is None:
        raise click.UsageError("--queries is needed, except with --plan")
    queries = subject.queries(query_file, split, limit)
    scores = subject.scores(score_files, queries)
    show(run_lds(subject, queries, scores, Retraining(**retraining), settings, best, say), as_json, out)


@click.command("leave-k-out")
@MODEL
@QUERY_FILE
@SPLIT
@METHODS
@RETRAIN
@GRID
@click.option(
    "--fraction", "fractions", type=float, multiple=True, default=(0.0085,), show_default=True,
    help="Share of the items to remove; repeat. The papers' are 0.0042, 0.0085 and 0.034.",
)  # fmt: skip
@click.option(
    "--random-runs", default=3, show_default=True, help="Removals of random items, shared by all queries."
)
@click.option("--noise-runs", default=2, show_default=True, help="Runs on everything with other seeds.")
@click.option(
    "--images", default=4, show_default=True, help="Pictures generated a query and model; 0: no dG."
)
@click.option("--seed", default=0, show_default=True, help="Of the random removals.")
@PLAN
@OUTPUT
@on_threads
def leave_k_out(
    subject_dir: Path,
    corpus_dir: Path,
    cache: Path,
    query_file: Path,
    split: str,
    limit: int | None,
    score_files: tuple[Path, ...],
    best: str,
    timesteps: int,
    draws: int,
    fractions: tuple[float, ...],
    random_runs: int,
    noise_runs: int,
    images: int,
    seed: int,
    plan_file: Path | None,
    as_json: bool,
    out: Path | None,
    **retraining: Any,
) -> None:
    """Remove each method's most influential items, retrain from scratch, report what the queries lose."""
    from .opening import Retraining, Subject
    from .protocols import RemovalSettings, plan_leave_k_out, run_leave_k_out
    from .query_loss import Grid

    subject = Subject.open(subject_dir, corpus_dir, cache)
    queries = subject.queries(query_file, split, limit)
    scores = subject.scores(score_files, queries)
    settings = RemovalSettings(fractions, random_runs, noise_runs, images, seed, Grid(timesteps, draws))
    if plan_file is not None:
        plans = plan_leave_k_out(subject, scores, settings)
        _write_plan(subject, [run for plan in plans for run in plan.runs], plan_file)
        return
    show(
        run_leave_k_out(subject, queries, scores, Retraining(**retraining), settings, best, say), as_json, out
    )


@click.command("agreement")
@click.option("--truth", type=FILE, required=True, help="Score file of the teacher.")
@click.option("--scores", "score_files", type=FILE, multiple=True, required=True, help="A method; repeat.")
@click.option(
    "--fraction", "fractions", type=float, multiple=True, default=(0.0042, 0.0085, 0.034), show_default=True
)
@OUTPUT
@on_threads
def agreement(
    truth: Path, score_files: tuple[Path, ...], fractions: tuple[float, ...], as_json: bool, out: Path | None
) -> None:
    """mAP(L), rank correlation and NDCG of methods against a teacher."""
    from .protocols import run_agreement
    from .scores import load_scores

    show(
        run_agreement(load_scores(truth), [load_scores(path) for path in score_files], fractions),
        as_json,
        out,
    )


@click.command("self-consistency")
@click.option("--first", type=FILE, required=True, help="Score file of the teacher.")
@click.option("--second", type=FILE, required=True, help="Score file of the same teacher under other noise.")
@click.option(
    "--fraction", "fractions", type=float, multiple=True, default=(0.0042, 0.0085, 0.034), show_default=True
)
@OUTPUT
@on_threads
def consistency(
    first: Path, second: Path, fractions: tuple[float, ...], as_json: bool, out: Path | None
) -> None:
    """How well a teacher agrees with itself: what its noise leaves for a student to learn."""
    from .protocols import run_self_consistency
    from .scores import load_scores

    show(run_self_consistency(load_scores(first), load_scores(second), fractions), as_json, out)


@click.command("scores-of-labels")
@click.option(
    "--labels",
    type=FOLDER,
    required=True,
    help="Folder of `attributary-train label --nearest 0 --outside 0`.",
)
@click.option("--split", "splits", multiple=True, default=("test",), show_default=True)
@click.option("--name", default="abu+", show_default=True, help="Name in the file and in tables.")
@click.option("--out", type=OUT, required=True, help="Score file to write (.npz).")
@on_threads
def of_labels(labels: Path, splits: tuple[str, ...], name: str, out: Path) -> None:
    """Turn labels against the whole training set into a score file."""
    from .from_labels import scores_of_labels
    from .scores import save_scores

    file = scores_of_labels(labels, name, splits)
    save_scores(file, out)
    click.echo(f"{out}: {len(file.queries)} queries x {len(file.ids)} items")


@click.command("rescale-scores")
@click.option("--scores", type=FILE, required=True)
@click.option("--temperature", type=float, help="exp(score / temperature), for cosines.")
@click.option("--power", type=float, help="What a score rises above the query's median, to this power.")
@click.option("--ranks", is_flag=True, help="1 / rank: nothing but the order of items counts.")
@click.option("--name", required=True, help="Name in the file and in tables.")
@click.option("--out", type=OUT, required=True, help="Score file to write (.npz).")
@on_threads
def rescale_scores(
    scores: Path, temperature: float | None, power: float | None, ranks: bool, name: str, out: Path
) -> None:
    """Turn scores into amounts of the same order; choose the number on validation queries."""
    from .rescale import rescale
    from .scores import load_scores, save_scores

    file = rescale(load_scores(scores), temperature, power, name, ranks=ranks)
    save_scores(file, out)
    click.echo(f"{out}: {len(file.queries)} queries x {len(file.ids)} items")


@click.command("combine-scores")
@click.argument("score_files", type=FILE, nargs=-1, required=True)
@click.option("--name", required=True, help="Name in the file and in tables.")
@click.option("--out", type=OUT, required=True, help="Score file to write (.npz).")
@on_threads
def combine_scores(score_files: tuple[Path, ...], name: str, out: Path) -> None:
    """Add up 1 / rank over SCORE_FILES of the same queries and items."""
    from .rescale import combine
    from .scores import load_scores, save_scores

    file = combine([load_scores(path) for path in score_files], name)
    save_scores(file, out)
    click.echo(f"{out}: {len(file.queries)} queries x {len(file.ids)} items, {len(score_files)} methods")


COMMANDS = (
    score,
    retrain,
    lds,
    leave_k_out,
    agreement,
    consistency,
    of_labels,
    rescale_scores,
    combine_scores,
)


def _write_plan(subject: Subject, runs: list[Any], path: Path) -> None:
    from .opening import plan_to_json

    write_text(path, json.dumps(plan_to_json(subject, runs)), EvaluationError)
    click.echo(f"{path}: {len(runs)} runs")
