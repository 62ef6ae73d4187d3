"""`attributary report`: a page about a finished run."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from attributary.batch.report_data import gather
from attributary.batch.report_page import ItemPicture, generation_pictures, page, plots_of
from attributary.batch.run import commit

from .options import PATH, json_option


@click.command("report")
@click.argument("run", type=PATH)
@click.option("--out", type=PATH, help="default: RUN/report.html")
@click.option("--plots", type=PATH, help="also write the plots here, as SVG")
@click.option("--inputs", multiple=True, type=PATH, help="the run's inputs, for pictures; repeatable")
@click.option("--image-root", multiple=True, type=PATH, help="as the run had it, for pictures; repeatable")
@click.option("--corpus", type=PATH, help="corpus directory, for items' pictures and captions")
@click.option(
    "--time-column", default=None, help="a column that passed through; default: position in the log"
)
@click.option(
    "--time-unit",
    type=click.Choice(["auto", "s", "ms", "us", "ns"]),
    default="auto",
    show_default=True,
    help="of a time column of numbers; auto: by their size",
)
@click.option(
    "--count-foreign",
    "--strangers",
    "with_foreign",
    is_flag=True,
    help="count generations that are out of distribution in totals, too",
)
@click.option("--creators", type=click.IntRange(1, 200), default=20, show_default=True, help="bars to draw")
@click.option("--examples", type=click.IntRange(0, 100), default=6, show_default=True, help="of each kind")
@click.option(
    "--resamples", type=click.IntRange(100, 10_000), default=400, show_default=True, help="bootstrap"
)
@click.option("--seed", type=int, default=0, show_default=True)
@json_option("print creators' totals and intervals as JSON")
def report_command(
    run: Path,
    out: Path | None,
    plots: Path | None,
    inputs: tuple[Path, ...],
    image_root: tuple[Path, ...],
    corpus: Path | None,
    as_json: bool,
    **chosen: Any,
) -> None:
    """Write one self-contained HTML page about a finished RUN of `attributary score`."""
    data = gather(run, **chosen)
    shown = [*data.most_certain, *data.least_certain]
    pictures = (
        generation_pictures(data.run, inputs, shown, [str(root.absolute()) for root in image_root])
        if inputs
        else {}
    )
    target = out or run / "report.html"
    text = page(data, f"Attribution of {run.resolve().name}", pictures, *_items(corpus))
    commit(target, text.encode("utf-8", "backslashreplace"), str(target))
    if plots is not None:
        plots.mkdir(parents=True, exist_ok=True)
        for name, svg in plots_of(data).items():
            commit(plots / f"{name}.svg", svg.encode("utf-8", "backslashreplace"), str(plots / f"{name}.svg"))
    if as_json:
        totals = [asdict(total) for total in data.creators]
        click.echo(json.dumps({"creators": totals, "diffuse": data.diffuse}, ensure_ascii=False))
    else:
        click.echo(f"wrote {target}")


def _items(corpus: Path | None) -> tuple[ItemPicture, Callable[[int], str]]:
    """Where an item's picture lies, and its caption, as far as a corpus says."""
    if corpus is None:
        return lambda item_id: None, lambda item_id: ""
    from attributary.building.source import read_source

    source = read_source(corpus)
    ids = source.table["id"].to_pylist()
    pictures = dict(zip(ids, source.pictures, strict=True))
    captions = dict(zip(ids, source.table["caption"].to_pylist(), strict=True))
    return pictures.get, lambda item_id: str(captions.get(item_id, ""))
