"""`attributary-train own`: the whole road under one command."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from attributary_train.console import FILE, FOLDER, OUT_FOLDER, clear_errors


@click.command("own")
@click.option("--pictures", type=FOLDER, required=True, help="Folder of your pictures, of any shape.")
@click.option(
    "--captions", type=FILE, required=True, help="CSV or Parquet with file and caption, creator, licence."
)
@click.option(
    "--out",
    type=OUT_FOLDER,
    required=True,
    help="Folder of all that is made.",
)
@click.option("--checkpoint", type=FOLDER, help="Diffusers directory; without one the bundle is untuned.")
@click.option(
    "--lora",
    type=click.Path(exists=True, path_type=Path),
    help="LoRA on it that the pictures were used to train.",
)
@click.option(
    "--queries", "prompts", type=FILE, help="Prompts really asked: lines, or a log with a column prompt."
)
@click.option("--train", default=1000, show_default=True, help="Queries that the student learns from.")
@click.option("--validation", default=100, show_default=True, help="Queries that shares are fitted to.")
@click.option("--test", default=50, show_default=True, help="Queries that the page reports on.")
@click.option("--nearest", default=200, show_default=True, help="Candidates of a query by similarity.")
@click.option("--outside", default=200, show_default=True, help="Random others; both 0: every item.")
@click.option("--steps", default=30, show_default=True, help="DDIM steps of a query.")
@click.option("--gradient-draws", default=256, show_default=True)
@click.option("--timesteps", default=5, show_default=True, help="Each with a noise and its mirror image.")
@click.option("--fisher", type=click.Choice(["ekfac", "diagonal"]), default="ekfac", show_default=True)
@click.option("--config", default="kernel", show_default=True, help="Of the student: a name, or a JSON file.")
@click.option("--image-size", type=int, help="Pixels of a side; by default what the U-Net was made for.")
@click.option("--workers", default=1, show_default=True, help="Processes that render and label.")
@click.option("--threads", default=1, show_default=True, help="Cores of the other steps.")
@click.option(
    "--plan", "only_plan", is_flag=True, help="Say what is missing and what it will cost, and do nothing."
)
@click.option("--json", "as_json", is_flag=True, help="With --plan: print JSON.")
@clear_errors()
def own(only_plan: bool, as_json: bool, **settings: Any) -> None:
    """From your pictures, and your checkpoint, to a verified bundle and a page about it; goes on where it stopped."""
    from .page import write_page
    from .plan import make_plan
    from .road import Request, road
    from .running import run_steps

    request = Request(**settings)
    steps = road(request)
    plan = make_plan(request)
    if as_json and only_plan:
        totals = {"total": plan.total, "hours_here": plan.hours_here, "hours_gpu": plan.hours_gpu}
        totals |= {"core_hours": plan.core_hours, "disk_gb": plan.disk_gb, "memory_gb": plan.memory_gb}
        click.echo(json.dumps({**asdict(plan), **totals, "steps": [step.command for step in steps]}))
        return
    for line in plan.lines():
        click.echo(line)
    if only_plan:
        for step in steps:
            click.echo(f"  {step.command}")
        return
    run_steps(steps, request.out, plan.inputs, lambda line: click.echo(f"== {line}"))
    page = write_page(request, steps, plan)
    click.echo(page.read_text(encoding="utf-8"))
    click.echo(f"wrote {page}")


@click.command("own-example")
@click.option(
    "--out",
    type=OUT_FOLDER,
    required=True,
    help="Folder of pictures/, items.csv and checkpoint/.",
)
@click.option(
    "--family",
    type=click.Choice(["stable-diffusion", "sdxl", "sd3", "flux", "sana", "pixart"]),
    default="stable-diffusion",
    show_default=True,
)
@click.option("--steps", default=1200, show_default=True, help="Of the denoiser's training.")
@click.option(
    "--cache",
    type=OUT_FOLDER,
    default=Path("out/cache"),
    show_default=True,
    help="Folder of downloaded packages.",
)
@click.option("--threads", default=1, show_default=True)
def own_example(out: Path, family: str, steps: int, cache: Path, threads: int) -> None:
    """Something to try `own` with: 290 photographs of a Debian package, and a tiny generator trained on them."""
    import torch

    from attributary_train.corpus import CorpusError
    from attributary_train.corpus.fetch import PackageCache
    from attributary_train.corpus.sources.photographs import write_photographs
    from attributary_train.errors import OwnError, SubjectError

    from .example import train_example

    torch.set_num_threads(threads)
    try:
        count = write_photographs(out, PackageCache(cache))
        click.echo(f"{out}: {count} photographs")
        where = train_example(out, family, steps=steps, log=click.echo)
    except (OwnError, CorpusError, SubjectError, OSError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"{where}: a {family} pipeline")
