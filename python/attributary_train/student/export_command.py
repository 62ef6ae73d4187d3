"""`attributary-train export`: a bundle's encoder as an ONNX graph at a precision, or as a TensorRT engine."""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from attributary_train.console import OUT_FOLDER, clear_errors

if TYPE_CHECKING:
    from attributary.triton.plans import Request


@click.command("export")
@click.option("--bundle", type=OUT_FOLDER, required=True, help="Bundle whose encoder is exported.")
@click.option("--out", type=OUT_FOLDER, required=True, help="Folder beside the bundle.")
@click.option("--precision", type=click.Choice(["fp32", "fp16"]), default="fp16", show_default=True)
@click.option("--tensorrt", is_flag=True, help="Build a TensorRT engine on this machine's GPU.")
@click.option("--dry-run", "dry", is_flag=True, help="Check bundle and graph; write nothing, need no GPU.")
@clear_errors()
def export(bundle: Path, out: Path, precision: Any, tensorrt: bool, dry: bool) -> None:
    """Write an encoder at a precision, held to the bundle's golden queries; with --tensorrt its engine too.

    `engines.json` records an engine's hash, TensorRT's version and the GPU's name.
    """
    from attributary.triton.plans import Request, build_engine, dry_run

    request = Request(bundle, out, precision)
    # The dry run refuses a graph that disagrees with the golden queries, before anything is written.
    found = dry_run(request)
    if dry:
        click.echo(json.dumps(asdict(found)))
    elif tensorrt:
        click.echo(json.dumps(asdict(build_engine(request))))
    else:
        click.echo(f"{_graph(request)}: golden queries hold, smallest cosine {found.graph_cosine:.5f} (CPU)")


def _graph(request: Request) -> Path:
    from attributary.bundle.bundle import Bundle
    from attributary.triton.plans import write_graph

    bundle = Bundle.open(request.bundle)
    request.out.mkdir(parents=True, exist_ok=True)
    target = request.out / f"encoder-{bundle.manifest.encoder.digest[:12]}-{request.precision}.onnx"
    with tempfile.TemporaryDirectory(prefix=".graph-", dir=request.out) as scratch:
        made, _ = write_graph(bundle, request.precision, Path(scratch))
        shutil.copyfile(made, Path(scratch) / "whole")
        (Path(scratch) / "whole").replace(target)
    return target
