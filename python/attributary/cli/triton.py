"""`attributary triton`: fill a repository from a bundle, swap bundles under load, build an engine."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, TypeAlias

import click

from attributary.triton.materialize import Settings, materialize
from attributary.triton.plans import Request, build_engine, dry_run

from .options import From, Option, declared

SettingsOptions: TypeAlias = Annotated[Settings, From(Settings)]


@click.group("triton")
def triton_group() -> None:
    """Serve with NVIDIA Triton."""


@triton_group.command("materialize")
@declared
def materialize_command(
    bundle: Annotated[Path, ""], out: Annotated[Path, "the model repository"], settings: SettingsOptions
) -> None:
    """Write the models of a BUNDLE into a repository, and point its aliases to them. Verifies the bundle first."""
    bundle_id = materialize(bundle, out, settings)
    click.echo(json.dumps({"bundle_id": bundle_id, "repository": str(out)}))


@triton_group.command("load")
@declared
def load_command(
    *,
    url: Annotated[str, "host:port of Triton's gRPC service"] = "127.0.0.1:8001",
    bundle: Annotated[Path, ""],
    repository: Annotated[Path, "the one that Triton runs on"],
    retire_after_s: Annotated[
        float, "seconds for gateways to move on before the old bundle is unloaded"
    ] = 30.0,
    keep: Annotated[bool, "leave the bundle before loaded"] = False,
    settings: SettingsOptions,
) -> None:
    """Serve another BUNDLE without a failed request.

    It is materialised and loaded beside the old one, the aliases change, and the old one is unloaded. If the new one
    cannot be loaded, the old one goes on and its aliases are put back.
    """
    from attributary.triton.swap import swap

    grace = None if keep else retire_after_s
    bundle_id = swap(url, bundle, repository, settings, retire_after_s=grace)
    click.echo(json.dumps({"bundle_id": bundle_id, "repository": str(repository)}))


@triton_group.command("build-engine")
@declared
def build_engine_command(
    request: Annotated[Request, From(Request)],
    dry: Annotated[bool, Option("check bundle and graph; build nothing, need no GPU", "--dry-run")] = False,
    as_json: Annotated[bool, Option("print the record as JSON", "--json")] = False,
) -> None:
    """Build a plan of the encoder for this machine's GPU, hold it to the golden queries, record it in engines.json."""
    result = dry_run(request) if dry else build_engine(request)
    if as_json:
        click.echo(json.dumps(asdict(result)))
    else:
        click.echo(result.summary())
