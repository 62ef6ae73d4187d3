"""`attributary-train evaluate combine-scores`: several methods' orders as one."""

from __future__ import annotations

from pathlib import Path

import click

from attributary_train.console import FILE, OUT, on_threads


@click.command("combine-scores")
@click.argument("score_files", type=FILE, nargs=-1, required=True)
@click.option("--name", required=True, help="Name in the file and in tables.")
@click.option("--out", type=OUT, required=True, help="Score file to write (.npz).")
@on_threads
def combine_scores(score_files: tuple[Path, ...], name: str, out: Path) -> None:
    """Add up 1 / rank over SCORE_FILES of the same queries and items."""
    from .combine import combine
    from .scores import load_scores, save_scores

    file = combine([load_scores(path) for path in score_files], name)
    save_scores(file, out)
    click.echo(f"{out}: {len(file.queries)} queries x {len(file.ids)} items, {len(score_files)} methods")
