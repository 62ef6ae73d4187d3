"""`attributary-train abc ...`: Attribution by Customization."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from attributary_train.console import FILE, FOLDER, OUT, OUT_FOLDER, clear_errors, on_threads, options
from attributary_train.evaluation.options import say, show

if TYPE_CHECKING:
    from attributary_train.customization.gallery import Gallery
    from attributary_train.customization.spaces.base import Context


@click.group("abc")
def abc() -> None:
    """Make pictures whose sources are known, compare feature spaces on them, tune maps, calibrate scores."""


@abc.command("make")
@click.option(
    "--subject",
    "subject_dir",
    type=FOLDER,
    required=True,
    help="Checkpoint, or a Stable Diffusion directory.",
)
@click.option("--corpus", "corpus_dir", type=FOLDER, required=True)
@click.option(
    "--out",
    type=OUT_FOLDER,
    required=True,
    help="Folder of the data set; an interrupted run goes on from it.",
)
@click.option(
    "--exemplars", "exemplar_file", type=FILE, help="JSON list of exemplars; by default they are chosen."
)
@click.option(
    "--objects", default="160,40,60,60", show_default=True, help="Train, validation, seen test, unseen test."
)
@click.option("--styles", default="64,16,40,40", show_default=True, help="The same for sets of one creator.")
@click.option("--pictures", default=8, show_default=True, help="Generated pictures an exemplar.")
@click.option("--object-steps", default=70, show_default=True, help="Steps of tuning toward an object.")
@click.option("--style-steps", default=120, show_default=True, help="Steps of tuning toward a style.")
@click.option("--steps", default=30, show_default=True, help="DDIM steps.")
@click.option("--guidance", default=3.0, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option(
    "--max-creator-share",
    default=0.06,
    show_default=True,
    help="No style exemplar by who drew more of the corpus.",
)
@click.option("--workers", default=2, show_default=True, help="Processes of one thread each; one a core.")
@on_threads
def make(
    subject_dir: Path,
    corpus_dir: Path,
    out: Path,
    exemplar_file: Path | None,
    objects: str,
    styles: str,
    pictures: int,
    object_steps: int,
    style_steps: int,
    steps: int,
    guidance: float,
    seed: int,
    max_creator_share: float,
    workers: int,
) -> None:
    """Tune the model toward exemplars and generate pictures whose source is known; resumable."""
    from attributary_train.corpus import Corpus
    from attributary_train.customization.choose import Choice
    from attributary_train.customization.exemplars import load_exemplars
    from attributary_train.customization.maker import Job
    from attributary_train.customization.maker import make as run
    from attributary_train.customization.plan import MakeSettings
    from attributary_train.customization.tuning import TuneSettings

    chosen = None
    if exemplar_file is not None:
        chosen = tuple(load_exemplars(exemplar_file, Corpus.open(corpus_dir)))
    choice = Choice(
        _counts("objects", objects),
        _counts("styles", styles),
        max_creator_share=max_creator_share,
        seed=seed,
    )
    settings = MakeSettings(
        TuneSettings(object_steps),
        TuneSettings.for_styles(style_steps),
        pictures,
        steps,
        guidance,
        seed=seed,
    )
    manifest = run(
        Job(out, subject_dir, corpus_dir, chosen, choice), settings, workers=workers, log=click.echo
    )
    click.echo(json.dumps(manifest["counts"], indent=1))
    click.echo(f"{out}: {manifest['pictures']} pictures, {len(manifest['failed'])} exemplars failed")


def _counts(name: str, text: str) -> Any:
    from attributary_train.customization.choose import Counts
    from attributary_train.errors import CustomizationError

    try:
        train, validation, seen, unseen = (int(part) for part in text.split(","))
    except ValueError:
        raise CustomizationError(
            name, f"{text!r}; must be four numbers with commas, as 160,40,60,60"
        ) from None
    return Counts(train, validation, seen, unseen)


_DATA = options(
    click.option("--data", "data_dir", type=FOLDER, required=True, help="What abc make wrote."),
    click.option("--distractors", default=5000, show_default=True, help="Items beside the exemplars'."),
    click.option("--student", type=FOLDER, help="Folder of a student or of an exported encoder."),
    click.option(
        "--cache", type=OUT_FOLDER, default=Path("out/cache/abc"), show_default=True, help="Features."
    ),
    click.option("--threads", default=1, show_default=True),
)


def _open(
    data_dir: Path, distractors: int, student: Path | None, cache: Path, threads: int
) -> tuple[Gallery, Context]:
    """What `abc make` wrote beside its distractors, and what spaces are opened with."""
    from attributary_train.customization.gallery import open_gallery
    from attributary_train.customization.plan import Plan
    from attributary_train.customization.spaces.base import Context

    gallery = open_gallery(data_dir, distractors)
    return gallery, Context(cache, Path(Plan.read(data_dir).paths["subject"]), student, threads)


@abc.command("tune")
@_DATA
@click.option("--space", "name", required=True, help="A feature space; see `abc spaces`.")
@click.option("--family", type=click.Choice(["joint", "object", "style"]), default="joint", show_default=True)
@click.option(
    "--map",
    "kind",
    type=click.Choice(["shared", "mlp", "two"]),
    default="shared",
    show_default=True,
    help="two: the subject of a published patent application, US 2025/0104399 A1.",
)
@click.option(
    "--penalty", type=float, help="Weight of the orthogonality penalty; by default chosen on validation."
)
@click.option("--steps", default=400, show_default=True)
@click.option("--maps", type=OUT_FOLDER, required=True, help="Folder that the map is put into.")
@clear_errors()
def tune(
    name: str,
    family: str,
    kind: Any,
    penalty: float | None,
    steps: int,
    maps: Path,
    **data: Any,
) -> None:
    """Learn a map over a frozen space from pairs of exemplar and generated picture."""
    import torch

    from attributary_train.customization.gallery import embed_gallery
    from attributary_train.customization.maps import MapSettings
    from attributary_train.customization.report import learned_map
    from attributary_train.customization.spaces.table import open_space

    torch.set_num_threads(data["threads"])
    gallery, context = _open(**data)
    space = open_space(name, context)
    settings = MapSettings(kind, steps, orthogonality=penalty)
    embedded = embed_gallery(gallery, space, context.cache)
    learned = learned_map(gallery, embedded, space, family, settings, maps, click.echo)
    click.echo(json.dumps(learned.facts, indent=1))


@abc.command("evaluate")
@_DATA
@click.option(
    "--space", "names", multiple=True, help="A space; by default every usual one that can be opened here."
)
@click.option("--family", "families", multiple=True, default=("joint",), show_default=True)
@click.option(
    "--map", "kinds", multiple=True, default=("shared",), show_default=True, help="shared, mlp or two."
)
@click.option("--steps", default=400, show_default=True, help="Steps of a map that is learned.")
@click.option(
    "--maps", type=OUT_FOLDER, required=True, help="Folder of maps; missing ones are learned into it."
)
@click.option("--check/--no-check", "checked", default=True, show_default=True, help="The maker's own check.")
@click.option("--plots", type=OUT_FOLDER, help="Folder for the tables as SVG.")
@click.option("--out", type=OUT, help="File for the JSON.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@clear_errors()
def evaluate(
    names: tuple[str, ...],
    families: tuple[str, ...],
    kinds: tuple[Any, ...],
    steps: int,
    maps: Path,
    checked: bool,
    plots: Path | None,
    out: Path | None,
    as_json: bool,
    **data: Any,
) -> None:
    """The table: spaces, untuned and tuned, on objects and styles, seen and unseen, with intervals."""
    from attributary_train.customization.learning import FAMILIES
    from attributary_train.customization.maps import MapSettings
    from attributary_train.customization.plots import table_svg
    from attributary_train.customization.report import evaluate as run
    from attributary_train.customization.spaces.table import named_spaces, open_space
    from attributary_train.errors import CustomizationError

    for family in families:
        if family not in FAMILIES:
            raise CustomizationError("family", f"{family!r}; there are {', '.join(FAMILIES)}")
    settings = [MapSettings(kind, steps) for kind in kinds]
    gallery, context = _open(**data)
    spaces, missing = named_spaces(names, context)
    judge = open_space("efficientnet", context) if checked else None
    config = {"plan": gallery.digest, "maps": list(kinds), "families": list(families)}
    report, table = run(gallery, spaces, missing, families, settings, maps, context.cache, judge, config, say)
    if plots is not None:
        plots.mkdir(parents=True, exist_ok=True)
        for measure in ("R@10", "mAP"):
            name = f"abc-{measure.replace('@', '').lower()}.svg"
            (plots / name).write_text(table_svg(table.rows(), measure), encoding="utf-8")
    show(report, as_json, out)


@abc.command("calibrate")
@_DATA
@click.option("--space", "name", required=True, help="A space of pictures: queries without a prompt.")
@click.option("--prompt-space", "prompt_name", help="Queries with a prompt, e.g. student+prompt.")
@click.option("--map", "map_path", type=FILE, help="A map over --space, from abc tune or abc evaluate.")
@click.option("--candidates", default=200, show_default=True, help="Items that compete for shares.")
@click.option(
    "--out", type=OUT_FOLDER, required=True, help="Folder for calibration.json, report.json, reliability.svg."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@clear_errors()
def calibrate(
    name: str,
    prompt_name: str | None,
    map_path: Path | None,
    candidates: int,
    out: Path,
    as_json: bool,
    **data: Any,
) -> None:
    """Turn cosines into shares: temperature, threshold, background; reliability on unseen exemplars."""
    from attributary_train.customization.calibrate import Reading, calibration_file
    from attributary_train.customization.calibrate import calibrate as run
    from attributary_train.customization.learning import Learned, map_identity
    from attributary_train.customization.plan import Plan
    from attributary_train.customization.plots import reliability_svg
    from attributary_train.customization.spaces.table import open_space

    gallery, context = _open(**data)
    space = open_space(name, context)
    learned = None if map_path is None else Learned.read(map_path, map_identity(gallery, space))
    prompted = None if prompt_name is None else Reading(open_space(prompt_name, context))
    config = {
        "plan": gallery.digest,
        "space": name,
        "prompt space": prompt_name,
        "map": learned and learned.facts,
    }
    read = Reading(space, learned)
    report, made, panels = run(gallery, read, prompted, context.cache, config, say, candidates)
    out.mkdir(parents=True, exist_ok=True)
    weights = Plan.read(data["data_dir"]).weights
    calibration_file(made, gallery.digest, space, weights, context.student, report).write(
        out / "calibration.json"
    )
    (out / "reliability.svg").write_text(reliability_svg(panels), encoding="utf-8")
    show(report, as_json, out / "report.json")


@abc.command("spaces")
def spaces() -> None:
    """List the feature spaces by name."""
    from attributary_train.customization.spaces.table import OWN, PUBLISHED

    for name, entry in OWN.items():
        click.echo(f"{name:18s}{entry.about}{'' if entry.usual else ' (not in the usual table)'}")
    for name in PUBLISHED:
        click.echo(f"{name + '=PATH':18s}published weights on this machine")
    click.echo("timm:NAME=PATH, open_clip:NAME=PATH: where those libraries are installed")


@abc.command("sheet")
@_DATA
@click.option("--space", "name", required=True)
@click.option("--map", "map_path", type=FILE, help="A map over it.")
@click.option("--rows", default=10, show_default=True, help="Test exemplars to show.")
@click.option("--licence", "licences", multiple=True, help="Show only items under these; by default all.")
@click.option("--out", type=OUT, required=True, help="PNG to write.")
@clear_errors()
def sheet(
    name: str,
    map_path: Path | None,
    rows: int,
    licences: tuple[str, ...],
    out: Path,
    **data: Any,
) -> None:
    """Pictures of the answer: exemplar, what the model drew before and after tuning, what was found."""
    from attributary_train.customization.gallery import embed_gallery
    from attributary_train.customization.learning import Learned, map_identity
    from attributary_train.customization.sheet import draw_sheet
    from attributary_train.customization.spaces.table import open_space

    gallery, context = _open(**data)
    space = open_space(name, context)
    embedded = embed_gallery(gallery, space, context.cache)
    if map_path is not None:
        embedded = Learned.read(map_path, map_identity(gallery, space)).apply(embedded)
    shown = draw_sheet(gallery, embedded, rows, frozenset(licences))
    out.parent.mkdir(parents=True, exist_ok=True)
    shown.save(out)
    click.echo(str(out))
