"""`attributary report`: a page about a finished run."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import click

from attributary.batch.report_data import Unit, gather
from attributary.batch.report_page import ItemPicture, generation_pictures, page, plots_of
from attributary.batch.run import commit

from .options import Argument, Option, declared


@click.command("report")
@declared
def report_command(
    run: Annotated[Path, Argument()],
    out: Annotated[Path | None, "default: RUN/report.html"] = None,
    plots: Annotated[Path | None, "also write the plots here, as SVG"] = None,
    inputs: Annotated[tuple[Path, ...], "the run's inputs, for pictures; repeatable"] = (),
    image_root: Annotated[tuple[Path, ...], "as the run had it, for pictures; repeatable"] = (),
    corpus: Annotated[Path | None, "corpus directory, for items' pictures and captions"] = None,
    time_column: Annotated[str | None, "a column that passed through; default: position in the log"] = None,
    time_unit: Annotated[Unit, "of a time column of numbers; auto: by their size"] = "auto",
    with_foreign: Annotated[
        bool,
        Option(
            "count generations that are out of distribution in totals, too", "--count-foreign --strangers"
        ),
    ] = False,
    creators: Annotated[int, Option("bars to draw", kind=click.IntRange(1, 200))] = 20,
    examples: Annotated[int, Option("of each kind", kind=click.IntRange(0, 100))] = 6,
    resamples: Annotated[int, Option("bootstrap", kind=click.IntRange(100, 10_000))] = 400,
    seed: Annotated[int, ""] = 0,
    as_json: Annotated[bool, Option("print creators' totals and intervals as JSON", "--json")] = False,
) -> None:
    """Write one self-contained HTML page about a finished RUN of `attributary score`."""
    data = gather(
        run,
        creators=creators,
        examples=examples,
        resamples=resamples,
        seed=seed,
        time_column=time_column,
        time_unit=time_unit,
        with_foreign=with_foreign,
    )
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
