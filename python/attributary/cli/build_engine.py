"""`attributary triton build-engine`: an encoder's engine for NVIDIA GPUs."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from attributary.tensorrt import Profile, Request, build_engine, dry_run
from attributary.tensorrt.types import PRECISIONS, RTX_CAPABILITIES, RUNTIMES

_DEFAULT = Profile()


@click.command("build-engine")
@click.option(
    "--bundle", type=click.Path(path_type=Path), required=True, help="bundle whose encoder is built"
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="directory beside the bundle")
@click.option(
    "--runtime",
    type=click.Choice(RUNTIMES),
    default="rtx",
    show_default=True,
    help="rtx needs no GPU; the others build on the GPU that they are for",
)
@click.option(
    "--compute-capability",
    "capabilities",
    multiple=True,
    help=f"target of rtx, repeatable; default: {' '.join(RTX_CAPABILITIES)}",
)
@click.option("--precision", type=click.Choice(PRECISIONS), default="fp16", show_default=True)
@click.option(
    "--opt-batch", type=int, default=_DEFAULT.opt_batch, show_default=True, help="batch it is tuned for"
)
@click.option("--max-batch", type=int, default=_DEFAULT.max_batch, show_default=True)
@click.option(
    "--opt-tokens", type=int, default=_DEFAULT.opt_tokens, show_default=True, help="prompt tuned for"
)
@click.option(
    "--calibration",
    type=click.Path(path_type=Path),
    help="int8: directory of pictures; default: golden queries",
)
@click.option(
    "--dry-run", "dry", is_flag=True, help="check bundle, graph and parser; build nothing, need no GPU"
)
@click.option("--json", "as_json", is_flag=True, help="print the record as JSON")
def build_engine_command(
    bundle: Path,
    out: Path,
    runtime: Any,
    capabilities: tuple[str, ...],
    precision: Any,
    opt_batch: int,
    max_batch: int,
    opt_tokens: int,
    calibration: Path | None,
    dry: bool,
    as_json: bool,
) -> None:
    """Build the encoder's engine, hold it to the golden queries, record it in engines.json."""
    request = Request(
        bundle=bundle,
        out=out,
        runtime=runtime,
        precision=precision,
        compute_capabilities=capabilities,
        profile=Profile(opt_batch=opt_batch, max_batch=max_batch, opt_tokens=opt_tokens),
        calibration=calibration,
    )
    if dry:
        found = dry_run(request)
        if as_json:
            click.echo(json.dumps(asdict(found)))
            return
        click.echo(
            f"{found.encoder} {found.encoder_digest[:12]}: {found.precision} graph of {found.graph_bytes} bytes, "
            f"golden queries hold (cosine {found.graph_cosine:.5f}, CPU)"
        )
        click.echo(
            f"{found.parser}: {found.layers} layers" if found.parser else f"not parsed: {found.reason}"
        )
        return
    record = build_engine(request)
    if as_json:
        click.echo(json.dumps(asdict(record)))
        return
    checked = (
        "never run" if record.engine_cosine is None else f"cosine {record.engine_cosine:.5f} on {record.gpu}"
    )
    click.echo(
        f"{out / record.file}: {record.bytes} bytes in {record.build_s} s for "
        f"{', '.join(record.compute_capabilities)}; graph cosine {record.graph_cosine:.5f}, engine {checked}"
    )
