"""`attributary query`, `describe` and `item`: ask a server about pictures, what it serves, what it knows of an item."""

from __future__ import annotations

import shutil
import sys
import textwrap
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, TypeAlias

import click
from rich.console import Console

from attributary.client.types import Answer
from attributary.errors import AttributaryError, UnavailableError
from attributary.plain import json_line, plain

from .options import AT_LEAST_1, Argument, Json, Option, Server, Wanted, declared
from .receipt_files import write_receipt
from .show import answer_json, answer_table

BundleId: TypeAlias = Annotated[str, Option("alias or id of the bundle", "--bundle")]


@click.command("query")
@declared
def query_command(
    *,
    images: Annotated[tuple[Path, ...], Argument()],
    server: Server,
    bundle: Annotated[str, "alias or id of the bundle that is to answer"] = "",
    prompt: Annotated[str, "the text that the pictures were generated from"] = "",
    top_k: Annotated[int | None, Option("items to return", kind=AT_LEAST_1)] = None,
    wanted: Wanted,
    receipts: Annotated[
        Path | None,
        "ask for signed receipts and write them to this folder, NAME.receipt.json for each picture",
    ] = None,
    timings: Annotated[bool, "show the server's phase timings"] = False,
    as_json: Annotated[bool, Option("print one JSON object a picture", "--json")] = False,
    sheet: Annotated[Path | None, "write a PNG with the top sources"] = None,
    pictures: Annotated[Path | None, "corpus directory, for the sheet"] = None,
) -> None:
    """Attribute IMAGES (JPEG, PNG, WebP, GIF, BMP or AVIF) at a running gateway.

    Each gets an answer, or an error with its name; ends with status 2 if there was one.
    """
    console = Console()
    answers: list[tuple[Path, Answer]] = []
    failed = 0
    away: UnavailableError | None = None
    with server() as client:
        for image in images:
            try:
                if away is not None:
                    # It was waited for once.
                    raise away
                answer = client.attribute(
                    image,
                    prompt=prompt,
                    top_k=top_k,
                    filter=wanted,
                    timings=timings,
                    bundle_id=bundle,
                    receipt=receipts is not None,
                )
                if receipts is not None:
                    write_receipt(receipts, image.name, answer)
            except AttributaryError as error:
                if len(images) == 1 and not as_json:
                    raise
                failed += 1
                away = error if isinstance(error, UnavailableError) else None
                if as_json:
                    click.echo(json_line({"image": str(image), "error": str(error)}))
                else:
                    click.echo(f"attributary: {plain(str(image))}: {plain(str(error))}", err=True)
                continue
            answers.append((image, answer))
            if as_json:
                click.echo(json_line({"image": str(image), **answer_json(answer)}))
            else:
                console.print(answer_table(image.name, answer))
    if sheet is not None and answers:
        from .sheet import Row, contact_sheet, read_corpus_pictures

        rows = [Row(picture=image.read_bytes(), title=image.name, answer=answer) for image, answer in answers]
        contact_sheet(rows, read_corpus_pictures(pictures)).save(sheet)
        click.echo(f"wrote {sheet}", err=as_json)
    if failed:
        sys.exit(2)


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
