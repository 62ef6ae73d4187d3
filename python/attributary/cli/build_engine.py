"""`attributary triton build-engine`: a TensorRT plan of a bundle's encoder."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from attributary.triton.plans import PRECISIONS, Profile, Request, build_engine, dry_run

_DEFAULT = Profile()
_FOLDER = click.Path(path_type=Path)


@click.command("build-engine")
@click.option("--bundle", type=_FOLDER, required=True, help="bundle whose encoder is built")
@click.option("--out", type=_FOLDER, required=True, help="directory beside the bundle")
@click.option("--precision", type=click.Choice(PRECISIONS), default="fp16", show_default=True)
@click.option(
    "--opt-batch", type=int, default=_DEFAULT.opt_batch, show_default=True, help="batch it is tuned for"
)
@click.option("--max-batch", type=int, default=_DEFAULT.max_batch, show_default=True)
@click.option(
    "--opt-tokens", type=int, default=_DEFAULT.opt_tokens, show_default=True, help="prompt tuned for"
)
@click.option("--dry-run", "dry", is_flag=True, help="check bundle and graph; build nothing, need no GPU")
@click.option("--json", "as_json", is_flag=True, help="print the record as JSON")
def build_engine_command(
    bundle: Path,
    out: Path,
    precision: Any,
    opt_batch: int,
    max_batch: int,
    opt_tokens: int,
    dry: bool,
    as_json: bool,
) -> None:
    """Build a plan of the encoder for this machine's GPU, hold it to the golden queries, record it in engines.json."""
    request = Request(bundle, out, precision, Profile(opt_batch, max_batch, opt_tokens))
    result = dry_run(request) if dry else build_engine(request)
    if as_json:
        click.echo(json.dumps(asdict(result)))
    else:
        click.echo(result.summary())
