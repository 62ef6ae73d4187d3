"""`attributary score`: attribute every picture of a log."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated, Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from attributary.batch.engines import ScorerSource
from attributary.batch.job import Counts, Progress, Result, score
from attributary.batch.pictures import Access
from attributary.batch.plan import Plan, make_plan, preview_lines, prompts_line, skipped_line
from attributary.batch.plan import dry_run as preview
from attributary.batch.prompts import ORIGINS
from attributary.batch.settings import Columns, Engine, Precision, RowLimits, Settings
from attributary.errors import InvalidArgumentError, RunError, needs
from attributary.machine import cores
from attributary.plain import counted, json_line, plain

from .options import AT_LEAST_1, Argument, ClientTls, From, Option, Wanted, declared

_DEFAULT = Settings()
_LIMITS = [entry.name for entry in fields(RowLimits)]
_LINE_EVERY_S = 10.0


def _settings(
    *,
    id_column: Annotated[str | None, "unique; default: generation_id, or file and row number"] = None,
    image_column: Annotated[str | None, "bytes, paths or URIs; default: image, uri or path"] = None,
    prompt_column: Annotated[str | None, "default: prompt, caption or text, if it is there"] = None,
    prompt_from: Annotated[
        tuple[str, ...],
        Option(
            "where prompts are looked for, in this order; repeatable; default: all of these",
            kind=click.Choice([*ORIGINS, "none"]),
        ),
    ] = (),
    image_root: Annotated[
        tuple[Path, ...],
        "a directory that the log's paths and links may lead to, beside its own; repeatable",
    ] = (),
    allow_uri: Annotated[
        tuple[str, ...], "a scheme and host that the log's URIs may name: s3://bucket; repeatable"
    ] = (),
    model_column: Annotated[str | None, "default: model_id, if it is there"] = None,
    pass_through: Annotated[tuple[str, ...], "keep only this column beside the answers; repeatable"] = (),
    no_pass_through: Annotated[bool, "keep none of the log's other columns"] = False,
    top_k: Annotated[int, "items a generation"] = _DEFAULT.top_k,
    wanted: Wanted,
    precision: Annotated[Precision, ""] = "fp32",
    batch_size: Annotated[int, "rows an engine call"] = _DEFAULT.batch_size,
    rows_per_shard: Annotated[int, ""] = _DEFAULT.rows_per_shard,
    limits: Annotated[RowLimits, From(RowLimits, dict.fromkeys(_LIMITS, ""))],
) -> Settings:
    if no_pass_through and pass_through:
        raise InvalidArgumentError("pass_through", "cannot be given beside --no-pass-through")
    if "none" in prompt_from and len(prompt_from) > 1:
        raise InvalidArgumentError("prompt_from", "none stands alone")
    settings = Settings(
        columns=Columns(id_column, image_column, prompt_column, model_column),
        pass_through=pass_through or (() if no_pass_through else None),
        top_k=top_k,
        filter=wanted,
        precision=precision,
        batch_size=batch_size,
        rows_per_shard=rows_per_shard,
        limits=limits,
        prompt_from=tuple(name for name in prompt_from if name != "none") if prompt_from else ORIGINS,
        access=Access(tuple(str(root.absolute()) for root in image_root), allow_uri),
    )
    settings.check()
    return settings


@click.command("score")
@declared
def score_command(
    *,
    inputs: Annotated[tuple[Path, ...], Argument()],
    out: Annotated[Path | None, "run directory, new or to go on with"] = None,
    bundle: Annotated[Path | None, "bundle directory"] = None,
    endpoint: Annotated[str | None, "host:port of a gateway that answers instead of this process"] = None,
    alias: Annotated[str, "alias or id of the bundle at --endpoint; default: the server's"] = "",
    triton_url: Annotated[str | None, "host:port of a Triton that serves the bundle"] = None,
    settings: Annotated[Settings, From(_settings)],
    max_error_rate: Annotated[
        float,
        Option(
            "stop when more of the rows, counted from 100 on, are error rows", kind=click.FloatRange(0, 1)
        ),
    ] = 0.1,
    workers: Annotated[int | None, Option("threads; default: every core", kind=AT_LEAST_1)] = None,
    on_ray: Annotated[bool, Option("run on Ray: decoding in tasks, the engine in actors", "--ray")] = False,
    ray_address: Annotated[str, "a Ray cluster, or auto; default: one of this machine's own"] = "",
    ray_actors: Annotated[int | None, "default: one for each core, or for each share of a GPU"] = None,
    ray_gpus_per_actor: Annotated[float, "GPUs that an actor holds"] = 0.0,
    receipt_key_file: Annotated[
        Path | None, "sign the finished run with the first key of this file: receipt.json"
    ] = None,
    token: Annotated[str | None, "the gateway's bearer token"] = None,
    tls: ClientTls,
    strict: Annotated[bool, "refuse inputs with members that are no rows"] = False,
    dry_run: Annotated[bool, "say what would be read, and score nothing"] = False,
    as_json: Annotated[bool, Option("print summary.json at the end", "--json")] = False,
) -> None:
    """Attribute every generation of INPUTS: Parquet and Arrow files, WebDataset tars, folders of pictures.

    The same command again goes on with a run that was stopped. Every member of an input is a row, an error row, or
    counted with the reason why it is not a row.
    """
    engine: Engine = "gateway" if endpoint else "triton" if triton_url else "embedded"
    settings = replace(settings, engine=engine)
    if endpoint and (bundle or triton_url):
        raise InvalidArgumentError("endpoint", "stands alone: the gateway has the bundle")
    if alias and not endpoint:
        raise InvalidArgumentError("alias", "is for --endpoint: which of the gateway's bundles answers")
    if out is None and not dry_run:
        raise InvalidArgumentError("out", "name a run directory, new or to go on with")
    if out is not None and (log := next((path for path in inputs if _lies_in(out, path)), None)):
        raise InvalidArgumentError(
            "out", f"{out} lies in {log}, of which the run would be a part; name a directory beside it"
        )
    if not endpoint and bundle is None and not dry_run:
        raise InvalidArgumentError("bundle", "name a bundle directory, or an --endpoint that serves one")
    if on_ray and workers is not None:
        raise InvalidArgumentError("workers", "is for threads of one machine; with --ray give --ray-actors")
    if not on_ray and (ray_address or ray_actors or ray_gpus_per_actor):
        raise InvalidArgumentError("ray_address", "the options of Ray need --ray")
    sign = None if receipt_key_file is None else _signer(receipt_key_file)
    console = Console(stderr=True)
    with _reading_bar(console) as reading:
        plan = make_plan(inputs, settings, reading)
    if dry_run:
        found = preview(plan)
        click.echo(json_line(found) if as_json else "\n".join(plain(line) for line in preview_lines(found)))
    left_out = skipped_line(dict(sorted(plan.fates.skipped.items())))
    if left_out and strict:
        raise RunError("strict", left_out)
    if dry_run:
        return
    assert out is not None
    source = ScorerSource(settings, bundle, endpoint or triton_url or "", token, tls, alias)
    if on_ray:
        options = (ray_address, ray_actors, ray_gpus_per_actor)
        with _progress(console) as progress:
            result = _score_on_ray(plan, source, out, options, max_error_rate, progress)
    else:
        threads = workers or (cores() if engine == "embedded" else max(4, cores()))
        with closing(source.open()) as scorer, _progress(console) as progress:
            result = score(
                plan, scorer, out, workers=threads, max_error_rate=max_error_rate, progress=progress
            )
    if sign is not None:
        sign(out, bundle)
    summary = result.summary
    if as_json:
        click.echo(json_line(summary))
        if left_out:
            click.echo(plain(left_out), err=True)
        return
    click.echo(plain(prompts_line(summary["prompts"], summary["rows"])))
    rows, wrong = counted(summary["rows"], "row"), counted(sum(summary["errors"].values()), "error row")
    click.echo(
        f"{out}: {rows}, {wrong}, {summary['out_of_distribution']:,} out of distribution, "
        f"{counted(summary['creators'], 'creator')} (run {summary['run']}, bundle {summary['bundle_id']})"
        + (f"; {plain(left_out)}" if left_out else "")
    )


def _lies_in(out: Path, log: Path) -> bool:
    return log.is_dir() and out.resolve().is_relative_to(log.resolve())


def _signer(key_file: Path) -> Callable[[Path, Path | None], object]:
    """What signs a run; a key that cannot be used is an error before the run, not after it."""
    # The verbs' module says what to install where the extra is missing.
    from . import receipts

    receipts.check_key_file(key_file)
    return lambda out, bundle: receipts.sign(out, key_file, bundle)


def _score_on_ray(
    plan: Plan,
    source: ScorerSource,
    out: Path,
    options: tuple[str, int | None, float],
    max_error_rate: float,
    progress: Progress,
) -> Result:
    with needs("ray"):
        from attributary.batch.ray_runner import RayOptions, score_on_ray
    return score_on_ray(
        plan, source, out, RayOptions(*options), max_error_rate=max_error_rate, progress=progress
    )


@contextmanager
def _reading_bar(console: Console) -> Iterator[Any]:
    if not console.is_terminal:
        yield lambda done, total: None
        return
    with Bar(
        TextColumn("reading the log"),
        BarColumn(),
        TextColumn("{task.percentage:.0f}%"),
        console=console,
        transient=True,
    ) as bar:
        task = bar.add_task("reading", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def _progress(console: Console) -> Iterator[Progress]:
    """Yield who is told of every committed shard: a bar on a terminal, a line now and then in a log file."""
    begun = time.monotonic()
    last_line = begun

    def rate(counts: Counts) -> str:
        return f"{(counts.rows - counts.resumed) / max(1e-9, time.monotonic() - begun):.1f} rows/s"

    if not console.is_terminal:

        def line(counts: Counts) -> None:
            nonlocal last_line
            if time.monotonic() - last_line >= _LINE_EVERY_S or counts.rows == counts.total:
                last_line = time.monotonic()
                click.echo(
                    f"{counts.rows}/{counts.total} rows, {rate(counts)}, {counts.errors} error rows", err=True
                )

        yield line
        return
    with Bar(
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[errors]} error rows"),
        console=console,
    ) as bar:
        task = bar.add_task("scoring", total=None, rate="", errors=0)

        def update(counts: Counts) -> None:
            bar.update(
                task, completed=counts.rows, total=counts.total, rate=rate(counts), errors=counts.errors
            )

        yield update
