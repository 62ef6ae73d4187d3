"""`attributary-train bench`: judge scores against the committed losses of models trained on halves of the items."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from attributary_train.console import FILE, FOLDER, OUT, OUT_FOLDER, on_threads

from .options import OUTPUT, show

WORLD = Path("models/truth/emoji")


@click.command("bench")
@click.argument("score_files", type=FILE, nargs=-1, required=True)
@click.option("--world", type=FOLDER, default=WORLD, show_default=True, help="Losses, items and queries.")
@click.option(
    "--split",
    type=click.Choice(["validation", "test"]),
    default="validation",
    show_default=True,
    help="Choose methods on validation queries; ask for test once.",
)
@click.option("--rivals", type=FOLDER, help="Folder of rivals' score files; by default that of the world.")
@click.option(
    "--kind", "kinds", multiple=True, help="Only queries of this kind (concept, drawing, ...); repeat."
)
@click.option(
    "--after", default=0, show_default=True, help="Leave out the first halves: a method learnt from them."
)
@click.option(
    "--keep", "place", type=OUT_FOLDER, help="Only keep these files in a folder, small enough to commit."
)
@click.option("--draws", default=400, show_default=True, help="Resamples of an interval.")
@click.option("--predictions", type=OUT, help="Also write every method's LDS of each query here (.npz).")
@OUTPUT
@on_threads
def bench(
    score_files: tuple[Path, ...],
    world: Path,
    split: str,
    rivals: Path | None,
    kinds: tuple[str, ...],
    after: int,
    place: Path | None,
    draws: int,
    predictions: Path | None,
    as_json: bool,
    out: Path | None,
) -> None:
    """Judge SCORE_FILES (.npz: scores, queries, ids) by the linear datamodelling score; no model is needed.

    Beside each method stand a constant (one list for all queries, the best there is), chance, and features.
    """
    from .bench import open_world
    from .bench_report import judge, keep

    if place is not None:
        for path in keep(open_world(world, split), place, score_files):
            click.echo(str(path))
        return
    content: dict[str, Any] = judge(
        world, split, score_files, rivals=rivals, kinds=kinds, draws=draws, rows_to=predictions, after=after
    )
    show(content, as_json, out)
