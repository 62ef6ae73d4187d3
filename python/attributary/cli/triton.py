"""`attributary triton`: fill a repository from a bundle, swap bundles under load, build an engine."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import click

from attributary.triton.materialize import Settings, materialize
from attributary.triton.plans import PRECISIONS, Profile, Request, build_engine, dry_run

from .options import PATH, json_option

_DEFAULT = Settings()
_PROFILE = Profile()
_HELP = {
    "max_batch": "queries of one request at most, and of one dynamic batch",
    "encoder_instances": "encoder models side by side; 0 is one a core, or one on a GPU",
    "encoder_threads": "cores that one encoder call uses (CPU)",
    "encoder_batch": "pictures that are encoded together at best (CPU)",
    "queue_delay_us": "how long Triton waits for a batch to fill, microseconds",
    "queue_timeout_us": "how long a request may wait in Triton's queue, microseconds; 0 is for ever",
    "max_queue": "requests that wait in Triton's queue at most; 0 is any number",
}


@click.group("triton")
def triton_group() -> None:
    """Serve with NVIDIA Triton."""


def settings_options(command: Any) -> Any:
    """Add the options of how models are to be run."""
    for name in reversed(list(_HELP)):
        default = getattr(_DEFAULT, name)
        option = "--" + name.replace("_", "-")
        command = click.option(option, name, type=int, default=default, show_default=True, help=_HELP[name])(
            command
        )
    for option, choices, text in (
        ("--precision", ["fp32", "int8"], "which of the bundle's encoders a CPU runs"),
        (
            "--index-backend",
            ["python", "faiss"],
            "the Python model, or the C++ backend of kernels/triton_faiss",
        ),
        ("--target", ["cpu", "gpu"], "where encoder and index run"),
    ):
        default = getattr(_DEFAULT, option[2:].replace("-", "_"))
        choice = click.Choice(choices)
        command = click.option(option, type=choice, default=default, show_default=True, help=text)(command)
    for option, text in (
        ("--served-path", "the bundle's directory as Triton sees it, where it sees it elsewhere"),
        ("--plan", "a TensorRT engine of the bundle's encoder (GPU)"),
    ):
        path = click.Path(path_type=Path) if option == "--plan" else None
        command = click.option(option, type=path, default=None, help=text)(command)
    return command


def to_settings(given: dict[str, Any]) -> Settings:
    """Return what `settings_options` gave."""
    return Settings(**{entry.name: given[entry.name] for entry in fields(Settings)})


@triton_group.command("materialize")
@click.option("--bundle", type=PATH, required=True)
@click.option("--out", type=PATH, required=True, help="the model repository")
@settings_options
def materialize_command(bundle: Path, out: Path, **given: Any) -> None:
    """Write the models of a BUNDLE into a repository, and point its aliases to them. Verifies the bundle first."""
    bundle_id = materialize(bundle, out, to_settings(given))
    click.echo(json.dumps({"bundle_id": bundle_id, "repository": str(out)}))


@triton_group.command("load")
@click.option("--url", default="127.0.0.1:8001", show_default=True, help="host:port of Triton's gRPC service")
@click.option("--bundle", type=PATH, required=True)
@click.option("--repository", type=PATH, required=True, help="the one that Triton runs on")
@click.option(
    "--retire-after-s",
    type=float,
    default=30.0,
    show_default=True,
    help="seconds for gateways to move on before the old bundle is unloaded",
)
@click.option("--keep", is_flag=True, help="leave the bundle before loaded")
@settings_options
def load_command(
    url: str, bundle: Path, repository: Path, retire_after_s: float, keep: bool, **given: Any
) -> None:
    """Serve another BUNDLE without a failed request.

    It is materialised and loaded beside the old one, the aliases change, and the old one is unloaded. If the new one
    cannot be loaded, the old one goes on and its aliases are put back.
    """
    from attributary.triton.swap import swap

    grace = None if keep else retire_after_s
    bundle_id = swap(url, bundle, repository, to_settings(given), retire_after_s=grace)
    click.echo(json.dumps({"bundle_id": bundle_id, "repository": str(repository)}))


@triton_group.command("build-engine")
@click.option("--bundle", type=PATH, required=True, help="bundle whose encoder is built")
@click.option("--out", type=PATH, required=True, help="directory beside the bundle")
@click.option("--precision", type=click.Choice(PRECISIONS), default="fp16", show_default=True)
@click.option(
    "--opt-batch", type=int, default=_PROFILE.opt_batch, show_default=True, help="batch it is tuned for"
)
@click.option("--max-batch", type=int, default=_PROFILE.max_batch, show_default=True)
@click.option(
    "--opt-tokens", type=int, default=_PROFILE.opt_tokens, show_default=True, help="prompt tuned for"
)
@click.option("--dry-run", "dry", is_flag=True, help="check bundle and graph; build nothing, need no GPU")
@json_option("print the record as JSON")
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
