"""`attributary query`: ask a server about pictures."""

from __future__ import annotations

import sys
from pathlib import Path

import click
from rich.console import Console

from attributary.attribution.types import Filter
from attributary.client.channel import Tls
from attributary.client.sync import Client
from attributary.client.types import Answer
from attributary.errors import AttributaryError, UnavailableError
from attributary.plain import json_line, plain

from .connection import tls_options
from .receipt_files import write_receipt
from .show import answer_json, answer_table


@click.command("query")
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--address", default="127.0.0.1:50051", show_default=True, help="host:port of the gateway")
@click.option("--bundle", default="", help="alias or id of the bundle that is to answer")
@click.option("--prompt", default="", help="the text that the pictures were generated from")
@click.option("--top-k", type=click.IntRange(min=1), default=None, help="items to return")
@click.option("--include-creator", multiple=True, help="search only this creator's items; repeatable")
@click.option("--exclude-creator", multiple=True, help="leave this creator's items out; repeatable")
@click.option("--include-licence", multiple=True, help="search only items under this licence; repeatable")
@click.option("--exclude-licence", multiple=True, help="leave items under this licence out; repeatable")
@click.option(
    "--receipts",
    type=click.Path(path_type=Path),
    default=None,
    help="ask for signed receipts and write them to this folder, NAME.receipt.json for each picture",
)
@click.option("--timings", is_flag=True, help="show the server's phase timings")
@click.option("--timeout", "timeout_s", type=float, default=10.0, show_default=True, help="seconds")
@click.option("--token", default=None, help="bearer token")
@tls_options
@click.option("--json", "as_json", is_flag=True, help="print one JSON object a picture")
@click.option(
    "--sheet", type=click.Path(path_type=Path), default=None, help="write a PNG with the top sources"
)
@click.option(
    "--pictures", type=click.Path(path_type=Path), default=None, help="corpus directory, for the sheet"
)
def query_command(
    images: tuple[Path, ...],
    address: str,
    bundle: str,
    prompt: str,
    top_k: int | None,
    include_creator: tuple[str, ...],
    exclude_creator: tuple[str, ...],
    include_licence: tuple[str, ...],
    exclude_licence: tuple[str, ...],
    receipts: Path | None,
    timings: bool,
    timeout_s: float,
    token: str | None,
    tls: Tls | None,
    as_json: bool,
    sheet: Path | None,
    pictures: Path | None,
) -> None:
    """Attribute IMAGES (JPEG, PNG, WebP, GIF, BMP or AVIF) at a running gateway.

    Each gets an answer, or an error with its name; ends with status 2 if there was one.
    """
    wanted = Filter(include_creator, exclude_creator, include_licence, exclude_licence)
    console = Console()
    answers: list[tuple[Path, Answer]] = []
    failed = 0
    away: UnavailableError | None = None
    with Client(address, tls=tls, token=token, timeout_s=timeout_s) as client:
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
