"""`attributary describe` and `attributary item`: what a server serves, and what it knows of an item."""

from __future__ import annotations

import shutil
import sys
import textwrap
from dataclasses import asdict
from typing import Annotated, TypeAlias

import click

from attributary.plain import json_line, plain

from .options import Argument, Json, Option, Server, declared

BundleId: TypeAlias = Annotated[str, Option("alias or id of the bundle", "--bundle")]


@click.command("describe")
@declared
def describe_command(server: Server, bundle_id: BundleId = "", as_json: Json = False) -> None:
    """Show what a running server serves: bundle, generator, encoder, index, what its shares mean, limits."""
    with server() as client:
        found = client.describe(bundle_id=bundle_id)
    if as_json:
        click.echo(json_line(asdict(found)))
        return
    limits = found.limits
    _print(
        ("bundle", f"{found.bundle_id} (version {found.bundle_version}), revision {found.revision}"),
        ("generator", found.subject_model),
        ("items", f"{found.item_count:,} by {found.creator_count:,} creators"),
        ("changes", f"{found.added_count:,} added, {found.deleted_count:,} deleted since it was made"),
        ("encoder", f"{found.encoder}, {found.dim} dimensions, {found.image_size} px, {found.max_tokens} tokens"),
        ("index", f"{found.index}, recall@10 {found.recall_at_10:.4f}, {found.candidates} candidates re-scored"),
        ("shares", found.calibration.method),
        ("names", f"creators' names in prompts are {found.names_in_prompts or 'read'}"),
        ("limits", f"{limits.max_image_bytes >> 20} MiB and {limits.max_image_pixels / 1e6:.0f} megapixels a picture, "
                   f"{limits.max_prompt_bytes} bytes of prompt, top_k {limits.max_top_k}, "
                   f"{limits.max_batch_queries} queries a batch"),
    )  # fmt: skip


@click.command("item")
@declared
def item_command(
    ids: Annotated[tuple[int, ...], Argument()],
    server: Server,
    bundle_id: BundleId = "",
    as_json: Json = False,
) -> None:
    """Show what a running server knows of training items, by their IDS."""
    with server() as client:
        for item_id in ids:
            item = client.get_item(item_id, bundle_id=bundle_id)
            if as_json:
                click.echo(json_line(asdict(item)))
            else:
                _print(
                    *(
                        (name.replace("_", " "), str(value))
                        for name, value in asdict(item).items()
                        if value != ""
                    )
                )


def _print(*facts: tuple[str, str]) -> None:
    # A terminal gets long values in lines of their own column; a pipe gets a line a fact.
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 1 << 20
    for name, value in facts:
        click.echo(
            textwrap.fill(
                f"{name:16}{plain(value)}", max(width, 40), subsequent_indent=" " * 16, drop_whitespace=True
            )
        )
