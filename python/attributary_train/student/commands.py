"""`attributary-train encoder ...`: fit the untuned encoder to a corpus and export it."""

from __future__ import annotations

import json
from pathlib import Path

import click

_FOLDER = click.Path(file_okay=False, path_type=Path)


@click.group("encoder")
def encoder() -> None:
    """Fit and export the encoder that a bundle serves."""


@encoder.command("export")
@click.option("--corpus", "corpus_dir", type=_FOLDER, required=True, help="The corpus that will be indexed.")
@click.option("--out", type=_FOLDER, required=True, help="Folder for encoder.onnx and what belongs to it.")
@click.option("--held-out", type=_FOLDER, help="Drawings left out of the index, to measure on.")
@click.option("--cache", type=_FOLDER, help="Folder for features; by default beside --out.")
@click.option("--threads", default=2, show_default=True, help="Cores to use.")
@click.option(
    "--choose", is_flag=True, help="Choose the head's form by measurement instead of the default one."
)
@click.option("--int8/--no-int8", default=True, show_default=True, help="Write the int8 variant too.")
@click.option("--json", "as_json", is_flag=True, help="Print encoder.json instead of a summary.")
def export(
    corpus_dir: Path,
    out: Path,
    held_out: Path | None,
    cache: Path | None,
    threads: int,
    choose: bool,
    int8: bool,
    as_json: bool,
) -> None:
    """Fit the head to a corpus, measure it, and export the encoder to ONNX."""
    from .pipeline import fit_and_export

    description = fit_and_export(
        corpus_dir, out, held_out, cache or out.parent / "cache" / "features", threads, choose, int8
    )
    if as_json:
        click.echo(json.dumps(description, indent=2))
        return
    click.echo(f"{out}: {description['name']}, {description['dim']} dimensions")
    click.echo(f"torch against ONNX: {description['parity_max_abs_difference']:.1e} at most")
    click.echo(json.dumps({"int8": description.get("int8"), "test": description["test"]}, indent=2))
