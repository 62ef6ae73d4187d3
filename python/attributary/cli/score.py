"""`attributary score`: attribute every picture of a log."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from attributary.batch.dry_run import dry_run as preview
from attributary.batch.dry_run import preview_lines, prompts_line, skipped_line
from attributary.batch.engines import ScorerSource
from attributary.batch.job import Counts, Progress, Result, score
from attributary.batch.pictures import Access
from attributary.batch.plan import Plan, make_plan
from attributary.batch.prompts import ORIGINS
from attributary.batch.settings import Columns, Precision, RowLimits, Settings
from attributary.client.channel import Tls
from attributary.errors import InvalidArgumentError, RunError, needs
from attributary.machine import cores
from attributary.plain import counted, json_line, plain

from .options import PATH, filter_options, json_option, tls_options

_DEFAULT = Settings()
_LINE_EVERY_S = 10.0


@click.command("score")
@click.argument("inputs", nargs=-1, required=True, type=PATH)
@click.option("--out", type=PATH, help="run directory, new or to go on with")
@click.option("--bundle", type=PATH, help="bundle directory")
@click.option("--endpoint", default=None, help="host:port of a gateway that answers instead of this process")
@click.option("--alias", default="", help="alias or id of the bundle at --endpoint; default: the server's")
@click.option("--triton-url", default=None, help="host:port of a Triton that serves the bundle")
@click.option("--id-column", default=None, help="unique; default: generation_id, or file and row number")
@click.option("--image-column", default=None, help="bytes, paths or URIs; default: image, uri or path")
@click.option("--prompt-column", default=None, help="default: prompt, caption or text, if it is there")
@click.option(
    "--prompt-from",
    multiple=True,
    type=click.Choice([*ORIGINS, "none"]),
    help="where prompts are looked for, in this order; repeatable; default: all of these",
)
@click.option(
    "--image-root",
    multiple=True,
    type=PATH,
    help="a directory that the log's paths and links may lead to, beside its own; repeatable",
)
@click.option(
    "--allow-uri",
    multiple=True,
    help="a scheme and host that the log's URIs may name: s3://bucket; repeatable",
)
@click.option("--model-column", default=None, help="default: model_id, if it is there")
@click.option("--pass-through", multiple=True, help="keep only this column beside the answers; repeatable")
@click.option("--no-pass-through", is_flag=True, help="keep none of the log's other columns")
@click.option("--top-k", type=int, default=_DEFAULT.top_k, show_default=True, help="items a generation")
@filter_options
@click.option("--precision", type=click.Choice(["fp32", "int8"]), default="fp32", show_default=True)
@click.option(
    "--batch-size", type=int, default=_DEFAULT.batch_size, show_default=True, help="rows an engine call"
)
@click.option("--rows-per-shard", type=int, default=_DEFAULT.rows_per_shard, show_default=True)
@click.option("--max-image-bytes", type=int, default=_DEFAULT.limits.max_image_bytes, show_default=True)
@click.option("--max-image-pixels", type=int, default=_DEFAULT.limits.max_image_pixels, show_default=True)
@click.option("--max-prompt-bytes", type=int, default=_DEFAULT.limits.max_prompt_bytes, show_default=True)
@click.option(
    "--max-error-rate",
    type=click.FloatRange(0, 1),
    default=0.1,
    show_default=True,
    help="stop when more of the rows, counted from 100 on, are error rows",
)
@click.option("--workers", type=click.IntRange(min=1), default=None, help="threads; default: every core")
@click.option("--ray", "on_ray", is_flag=True, help="run on Ray: decoding in tasks, the engine in actors")
@click.option("--ray-address", default="", help="a Ray cluster, or auto; default: one of this machine's own")
@click.option(
    "--ray-actors", type=int, default=None, help="default: one for each core, or for each share of a GPU"
)
@click.option(
    "--ray-gpus-per-actor", type=float, default=0.0, show_default=True, help="GPUs that an actor holds"
)
@click.option(
    "--receipt-key-file",
    type=PATH,
    help="sign the finished run with the first key of this file: receipt.json",
)
@click.option("--token", default=None, help="the gateway's bearer token")
@tls_options
@click.option("--strict", is_flag=True, help="refuse inputs with members that are no rows")
@click.option("--dry-run", is_flag=True, help="say what would be read, and score nothing")
@json_option("print summary.json at the end")
def score_command(
    inputs: tuple[Path, ...],
    out: Path | None,
    bundle: Path | None,
    endpoint: str | None,
    alias: str,
    triton_url: str | None,
    workers: int | None,
    max_error_rate: float,
    on_ray: bool,
    ray_address: str,
    ray_actors: int | None,
    ray_gpus_per_actor: float,
    receipt_key_file: Path | None,
    token: str | None,
    tls: Tls | None,
    strict: bool,
    dry_run: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Attribute every generation of INPUTS: Parquet and Arrow files, WebDataset tars, folders of pictures.

    The same command again goes on with a run that was stopped. Every member of an input is a row, an error row, or
    counted with the reason why it is not a row.
    """
    engine = "gateway" if endpoint else "triton" if triton_url else "embedded"
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
    settings = _settings(given, engine)
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
        scorer = source.open()
        try:
            with _progress(console) as progress:
                result = score(
                    plan, scorer, out, workers=threads, max_error_rate=max_error_rate, progress=progress
                )
        finally:
            scorer.close()
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


def _settings(given: dict[str, Any], engine: str) -> Settings:
    if given["no_pass_through"] and given["pass_through"]:
        raise InvalidArgumentError("pass_through", "cannot be given beside --no-pass-through")
    kept: tuple[str, ...] | None = given["pass_through"] or (() if given["no_pass_through"] else None)
    settings = Settings(
        columns=Columns(
            given["id_column"], given["image_column"], given["prompt_column"], given["model_column"]
        ),
        pass_through=kept,
        top_k=given["top_k"],
        filter=given["wanted"],
        engine=cast(Any, engine),
        precision=cast(Precision, given["precision"]),
        batch_size=given["batch_size"],
        rows_per_shard=given["rows_per_shard"],
        limits=RowLimits(given["max_image_bytes"], given["max_image_pixels"], given["max_prompt_bytes"]),
        prompt_from=_prompt_from(given["prompt_from"]),
        access=Access(tuple(str(root.absolute()) for root in given["image_root"]), given["allow_uri"]),
    )
    settings.check()
    return settings


def _prompt_from(given: tuple[str, ...]) -> tuple[str, ...]:
    if "none" in given and len(given) > 1:
        raise InvalidArgumentError("prompt_from", "none stands alone")
    return tuple(name for name in given if name != "none") if given else ORIGINS


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
