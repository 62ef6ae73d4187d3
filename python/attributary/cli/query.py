"""`attributary query`: ask a server about pictures."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import click
from rich.console import Console

from attributary.client.types import Answer
from attributary.errors import AttributaryError, UnavailableError
from attributary.plain import json_line, plain

from .options import AT_LEAST_1, Argument, Option, Server, Wanted, declared
from .receipt_files import write_receipt
from .show import answer_json, answer_table


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
