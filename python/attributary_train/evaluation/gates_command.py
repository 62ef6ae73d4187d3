"""`attributary-train evaluate gates`: whether pictures and prompts both matter in a world."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from attributary_train.console import on_threads

from .options import MODEL, OUTPUT, QUERY_FILE, setting, show


@click.command("gates")
@MODEL
@QUERY_FILE
@click.option("--split", default="validation", show_default=True)
@click.option("--method", "methods", multiple=True, help="Also swap pictures and prompts under it; repeat.")
@click.option(
    "--set", "settings", multiple=True, metavar="NAME=VALUE", help="A setting of the methods; repeat."
)
@click.option("--limit", default=20, show_default=True, help="Queries of the swaps.")
@OUTPUT
@on_threads
def gates(
    subject_dir: Path,
    corpus_dir: Path,
    cache: Path,
    query_file: Path,
    split: str,
    methods: tuple[str, ...],
    settings: tuple[str, ...],
    limit: int,
    as_json: bool,
    out: Path | None,
) -> None:
    """Samples recognised among four captions; and a method's first nine items, with picture or prompt swapped."""
    import torch

    from ..subject.level_queries import DRAWING, EMPTY
    from ..teacher.registry import Context, create
    from .gates import items_as_queries, kept_of_top, recognised
    from .opening import Subject
    from .stats import mean_interval
    from .tables import aim, interval_row, report

    subject = Subject.open(subject_dir, corpus_dir, cache)
    queries = subject.queries(query_file, split)
    context = Context(subject_dir, subject.corpus, cache, torch.get_num_threads())
    looks = create("image", context)
    looks.fit(subject.data, subject.model)
    scores = looks.score(queries, subject.data.ids)
    kinds = [name for name, _ in subject.recipe.captions if name in queries.kinds]
    seen = {name: recognised(scores, queries, subject.data, name) for name in kinds}
    rows: list[dict[str, Any]] = []
    for name, found in seen.items():
        real = items_as_queries(subject.data, subject.model.weights, name)
        best = recognised(looks.score(real, subject.data.ids), real, subject.data, name)
        rows.append({"level": name, "chance": 0.25, "real items": best.value, **interval_row(found)})
    aims = []
    if "concept" in seen:
        value = seen["concept"].value
        aims.append(aim("concept recognised among four", value, 0.8, "share", value >= 0.8))
    made = [row for row, kind in enumerate(queries.kinds) if kind not in (DRAWING, EMPTY)]
    step = max(1, len(made) // limit)
    some = queries.take(made[::step][:limit])
    swaps = []
    for name in methods:
        method = create(name, context, dict(setting(entry) for entry in settings))
        method.fit(subject.data, subject.model)
        for what, kept in kept_of_top(method, some, subject.data).items():
            found = mean_interval(kept)
            swaps.append({"method": name, "swap": what, **interval_row(found)})
            bound = 0.4 if what.startswith("picture") else 0.3
            aims.append(
                aim(f"{name}, {what}: first nine kept", found.value, bound, "share", found.value < bound)
            )
    show(
        report(
            "evaluate-gates",
            {"split": split, "queries": len(some)},
            {"recognised": rows, "kept": swaps},
            aims,
            subject.recipe.name,
        ),
        as_json,
        out,
    )
