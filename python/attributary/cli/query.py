"""`attributary query`: ask a server about pictures."""

from __future__ import annotations

import json
from pathlib import Path

import click
from rich.console import Console

from attributary.attribution.types import Filter
from attributary.client.channel import Tls
from attributary.client.sync import Client
from attributary.client.types import Answer

from .connection import tls_options
from .show import answer_json, answer_table


@click.command("query")
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--address", default="127.0.0.1:50051", show_default=True, help="host:port of the gateway")
@click.option("--prompt", default="", help="the text that the pictures were generated from")
@click.option("--top-k", type=click.IntRange(min=1), default=None, help="items to return")
@click.option("--include-creator", multiple=True, help="search only this creator's items; repeatable")
@click.option("--exclude-creator", multiple=True, help="leave this creator's items out; repeatable")
@click.option("--include-licence", multiple=True, help="search only items under this licence; repeatable")
@click.option("--exclude-licence", multiple=True, help="leave items under this licence out; repeatable")
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
    prompt: str,
    top_k: int | None,
    include_creator: tuple[str, ...],
    exclude_creator: tuple[str, ...],
    include_licence: tuple[str, ...],
    exclude_licence: tuple[str, ...],
    timings: bool,
    timeout_s: float,
    token: str | None,
    tls: Tls | None,
    as_json: bool,
    sheet: Path | None,
    pictures: Path | None,
) -> None:
    """Attribute IMAGES (JPEG, PNG, WebP, GIF or BMP) at a running gateway."""
    wanted = Filter(include_creator, exclude_creator, include_licence, exclude_licence)
    console = Console()
    answers: list[tuple[Path, Answer]] = []
    with Client(address, tls=tls, token=token, timeout_s=timeout_s) as client:
        for image in images:
            answer = client.attribute(image, prompt=prompt, top_k=top_k, filter=wanted, timings=timings)
            answers.append((image, answer))
            if as_json:
                click.echo(json.dumps({"image": str(image), **answer_json(answer)}, ensure_ascii=False))
            else:
                console.print(answer_table(image.name, answer))
    if sheet is not None:
        from .sheet import Row, contact_sheet, read_corpus_pictures

        rows = [Row(picture=image.read_bytes(), title=image.name, answer=answer) for image, answer in answers]
        contact_sheet(rows, read_corpus_pictures(pictures)).save(sheet)
        click.echo(f"wrote {sheet}", err=as_json)
