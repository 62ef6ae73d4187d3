"""`attributary-train demo-queries`: generated pictures with their prompts, and a few of another origin, as small PNGs.

They are what `make demo` asks, what golden queries are recorded from, and what an index is probed with.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
import numpy.typing as npt
from PIL import Image

from attributary_train.console import OUT_FOLDER, on_threads
from attributary_train.evaluation.options import LABELS, MODEL, QUERY_FILE

if TYPE_CHECKING:
    from attributary_train.subject.queries import Queries

QUERIES = "queries.json"
TEACHER_BEST = 10


@click.command("demo-queries")
@MODEL
@QUERY_FILE
@click.option("--split", default="test", show_default=True)
@click.option(
    "--count", default=10, show_default=True, help="Generated pictures, evenly spread over the split."
)
@click.option("--name", "names", multiple=True, help="Take this query; repeat. Instead of --count.")
@click.option(
    "--labels",
    type=LABELS,
    help="Labels of every item, or a score file: the teacher's ten best are what is expected.",
)
@click.option("--out", type=OUT_FOLDER, required=True)
@on_threads
def demo_queries(
    subject_dir: Path,
    corpus_dir: Path,
    cache: Path,
    query_file: Path,
    split: str,
    count: int,
    names: tuple[str, ...],
    labels: Path | None,
    out: Path,
) -> None:
    """Write generated pictures, one of noise and one with a photograph's shading, and queries.json beside them."""
    from attributary_train.calibration.foreign import noise
    from attributary_train.evaluation.opening import Subject
    from attributary_train.generators.latents import decode
    from attributary_train.subject.queries import load_queries

    subject = Subject.open(subject_dir, corpus_dir, cache)
    every = load_queries(query_file, subject.model)
    queries = _chosen(every.split(split), names, count)
    best = {} if labels is None else _teacher_best(labels, every)
    out.mkdir(parents=True, exist_ok=True)
    entries = []
    for at, picture in enumerate(decode(subject.autoencoder, queries.latents)):
        name = queries.names[at]
        facts = {"seed": queries.seeds[at], "kind": queries.kinds[at], "note": f"{queries.kinds[at]} prompt"}
        entries.append(
            _entry(out, name, picture, queries.prompts[at], True, {**facts, "expected": best.get(name, [])})
        )
    size = subject.recipe.image_size
    foreign = (("noise", noise(3, size, 3)[2]), ("landscape", shaded_landscape(size)))
    for name, picture in foreign:
        note = {"kind": "foreign", "note": "not generated: should be flagged", "expected": []}
        entries.append(_entry(out, name, picture, "", False, note))
    facts = {
        "weights": queries.weights,
        "steps": queries.steps,
        "guidance": queries.guidance,
        "split": split,
        "queries": entries,
    }
    (out / QUERIES).write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    click.echo(f"{out}: {len(queries)} generated pictures, {len(foreign)} others")


def shaded_landscape(size: int, seed: int = 1) -> npt.NDArray[np.uint8]:
    """Hills under a sky with haze and grain, uint8 [size, size, 3]: what a photograph has and a drawing has not."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:size, 0:size] / size
    sky = np.stack([0.55 + 0.35 * rows, 0.65 + 0.2 * rows, 0.9 - 0.1 * rows], axis=-1)
    picture = sky
    for layer in range(4):
        line = 0.45 + 0.13 * layer
        for wave in range(1, 5):
            line = line + 0.06 / wave * np.sin(2 * np.pi * wave * columns + rng.uniform(0, 6.3))
        depth = layer / 3
        ground = np.array([0.45 - 0.25 * depth, 0.5 - 0.15 * depth, 0.5 - 0.38 * depth])
        shade = (0.8 + 0.4 * (rows - line))[..., None] * ground
        picture = np.where((rows > line)[..., None], shade, picture)
    grain = rng.normal(0, 0.03, (size, size, 1)) + rng.normal(0, 0.015, (size, size, 3))
    return np.asarray(np.clip((picture + grain) * 255, 0, 255), np.uint8)


def _chosen(queries: Queries, names: tuple[str, ...], count: int) -> Queries:
    """The named ones, else `count` generated ones spread evenly: no real drawings, none without a prompt."""
    from attributary_train.subject.level_queries import DRAWING

    if not names:
        rows = [
            row
            for row, (kind, prompt) in enumerate(zip(queries.kinds, queries.prompts, strict=True))
            if kind != DRAWING and prompt
        ]
        if not rows:
            raise click.UsageError("--split: has no generated picture with a prompt")
        count = min(count, len(rows))
        return queries.take([rows[(2 * at + 1) * len(rows) // (2 * count)] for at in range(count)])
    place = {name: row for row, name in enumerate(queries.names)}
    missing = [name for name in names if name not in place]
    if missing:
        raise click.UsageError(f"--name {missing[0]}: no such query in the split")
    return queries.take([place[name] for name in names])


def _teacher_best(labels: Path, queries: Queries) -> Mapping[str, list[int]]:
    from attributary_train.evaluation.from_labels import labels_of

    found = {}
    for label in labels_of(labels, queries, queries.weights):
        if label.error is None:
            order = np.argsort(-label.scores, kind="stable")[:TEACHER_BEST]
            found[label.query] = label.candidates[order].tolist()
    return found


def _entry(
    out: Path, name: str, picture: npt.NDArray[np.uint8], prompt: str, generated: bool, facts: dict[str, Any]
) -> dict[str, Any]:
    Image.fromarray(picture).save(out / f"{name}.png", optimize=True)
    title = prompt or name
    return {"file": f"{name}.png", "title": title, "prompt": prompt, "generated": generated, **facts}
