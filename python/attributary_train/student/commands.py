"""`attributary-train encoder ...`: fit the untuned encoder to a corpus and export it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from attributary_train.console import OUT_FOLDER


@click.group("encoder")
def encoder() -> None:
    """Fit and export the encoder that a bundle serves."""


@encoder.command("export")
@click.option(
    "--corpus", "corpus_dir", type=OUT_FOLDER, required=True, help="The corpus that will be indexed."
)
@click.option("--out", type=OUT_FOLDER, required=True, help="Folder for encoder.onnx and what belongs to it.")
@click.option("--held-out", type=OUT_FOLDER, help="Drawings left out of the index, to measure on.")
@click.option("--cache", type=OUT_FOLDER, help="Folder for features; by default beside --out.")
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
    for line in summary(description):
        click.echo(line)
    click.echo(f"next: attributary bundle build --corpus {corpus_dir} --encoder {out} --out BUNDLE")


def summary(description: Mapping[str, Any]) -> list[str]:
    """What `encoder.json` says, in a few lines."""
    files = description["files"]
    size = files["encoder.onnx"]["bytes"] / 1e6
    parity = description["parity_max_abs_difference"]
    lines = [
        f"encoder  {description['name']}, {description['dim']} dimensions, {size:.0f} MB",
        f"torch    differs from ONNX by {parity:.0e} at most",
    ]
    if int8 := description.get("int8"):
        worst = min(part["min"] for part in int8["cosine_to_fp32"].values())
        lines.append(f"int8     {int8['bytes'] / 1e6:.0f} MB, cosine to fp32 at least {worst:.3f}")
    measured = description["test"]["exported"]
    if copies := measured.get("copies"):
        kinds = ", ".join(f"{kind} {share:.0%}" for kind, share in copies["by_kind"].items())
        lines.append(
            f"copies   original at rank 1 for {copies['original_first']:.1%} of {copies['queries']} ({kinds})"
        )
    else:
        lines.append("copies   not measured: no item of this corpus falls to the test queries")
    for name, words in (("concepts", "without"), ("concepts_with_prompt", "with")):
        if concepts := measured.get(name):
            lines.append(
                f"concepts in the top 10 for {concepts['in_top_10']:.1%} of {concepts['queries']} held out, "
                f"{words} a prompt"
            )
    return lines
