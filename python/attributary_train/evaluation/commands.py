"""`attributary-train evaluate ...`: does what was built find what it should?"""

from __future__ import annotations

import json
from pathlib import Path

import click

from .combine_command import combine_scores
from .gates_command import gates
from .halves_command import halves
from .student_command import student
from .truth_commands import COMMANDS

_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


@click.group("evaluate")
def evaluate() -> None:
    """Measure encoders, bundles and attribution methods."""


for _command in (*COMMANDS, student, halves, gates, combine_scores):
    evaluate.add_command(_command)


@evaluate.command("retrieval")
@click.option("--bundle", type=_FOLDER, help="A bundle: its encoder, its vectors, its items.")
@click.option("--encoder", "encoder_dir", type=_FOLDER, help="An exported encoder; the corpus is embedded.")
@click.option("--corpus", "corpus_dir", type=_FOLDER, required=True, help="The corpus that is indexed.")
@click.option("--held-out", type=_FOLDER, help="Drawings of known concepts, left out of the index.")
@click.option("--split", type=click.Choice(["validation", "test"]), default="test", show_default=True)
@click.option("--copies", default=500, show_default=True, help="Changed copies to look for.")
@click.option("--int8", is_flag=True, help="Ask with the int8 variant; the index stays that of the original.")
@click.option("--threads", default=2, show_default=True, help="Cores to use.")
@click.option(
    "--cache",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder that keeps embeddings between runs.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def retrieval(
    bundle: Path | None,
    encoder_dir: Path | None,
    corpus_dir: Path,
    held_out: Path | None,
    split: str,
    copies: int,
    int8: bool,
    threads: int,
    cache: Path | None,
    as_json: bool,
) -> None:
    """Changed copies at rank 1, and other creators' drawings of a concept in the top 10, by exact search."""
    from .measure import Setup, measure
    from .strict_json import strict_json

    if (bundle is None) == (encoder_dir is None):
        raise click.UsageError("give either --bundle or --encoder")
    setup = Setup(bundle, encoder_dir, corpus_dir, held_out, split, copies, int8, threads, cache)
    report = measure(setup)
    if as_json:
        click.echo(strict_json(report))
        return
    for name, value in report["results"].items():
        click.echo(f"{name}: {json.dumps(value)}")
    for aim in report["aims"]:
        mark = "met" if aim["met"] else "NOT met"
        click.echo(f"{aim['name']}: {aim['value']:.3f}, aim {aim['aim']} {aim['unit']}, {mark}")
