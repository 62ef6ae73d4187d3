"""`attributary-train student pictures|train|sweep|distil|score|show`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from attributary_train.console import FILE, FOLDER, OUT, OUT_FOLDER, on_threads, options
from attributary_train.evaluation.options import say, setting
from attributary_train.evaluation.options import show as show_report

if TYPE_CHECKING:
    from .studio import Studio

_LABELS = click.option("--labels", type=FOLDER, required=True, help="Labels of training queries.")
_LIMIT = click.option("--limit", type=int, help="Only the first so many labelled queries.")


_STUDIO = options(
    click.option("--subject", type=FOLDER, required=True, help="Checkpoint under study."),
    click.option("--corpus", type=FOLDER, required=True, help="The corpus it was trained on."),
    click.option("--queries", type=FILE, required=True, help="File of `subject queries`."),
    click.option("--cache", type=OUT_FOLDER, default=Path("out/cache/subject"), show_default=True),
    click.option("--threads", default=1, show_default=True, help="Cores to use."),
)


def _open(kwargs: dict[str, Any]) -> Studio:
    import torch

    from .studio import Studio

    threads = torch.get_num_threads()  # As `on_threads` set them.
    return Studio.open(kwargs["subject"], kwargs["corpus"], kwargs["queries"], kwargs["cache"], threads)


@click.group("student")
def student() -> None:
    """Train students on a teacher's labels, distil them, and ask them."""


@student.command("pictures")
@_STUDIO
@click.option("--count", default=10240, show_default=True, help="Pictures to generate.")
@click.option("--seed", default=0, show_default=True)
@click.option("--out", type=OUT_FOLDER, required=True, help="Folder; an interrupted run goes on from it.")
@on_threads
def pictures(count: int, seed: int, out: Path, **kwargs: Any) -> None:
    """Generate pictures for distillation, of no prompt that a validation or test query has."""
    from .making import captions_in_styles
    from .more_pictures import make_pictures, prompts_for_distillation

    studio = _open(kwargs)
    asked = studio.queries
    held = [prompt for prompt, split in zip(asked.prompts, asked.splits, strict=True) if split != "train"]
    prompts = prompts_for_distillation(
        studio.subject.data.prompts, held, count, others=captions_in_styles(studio), seed=seed
    )
    make_pictures(
        studio.subject.model,
        prompts,
        studio.tokens,
        out,
        steps=asked.steps,
        guidance=asked.guidance,
        say=say,
    )
    click.echo(f"{out}: {count} pictures")


@student.command("train")
@_STUDIO
@click.option("--labels", type=FOLDER, help="Labels of training queries; or --scores.")
@click.option(
    "--scores", type=FILE, multiple=True, help="Score file of training queries (`evaluate score`); repeat."
)
@_LIMIT
@click.option("--config", "config_name", default="kernel", show_default=True, help="A name, or a JSON file.")
@click.option("--item-scores", type=FILE, help="File of `student item-scores`: items as queries (generator).")
@click.option(
    "--losses", type=FOLDER, help="Benchmark whose training queries' losses to foretell (generator)."
)
@click.option("--out", type=OUT_FOLDER, required=True, help="Folder of the student.")
@on_threads
def train(
    labels: Path | None,
    scores: tuple[Path, ...],
    limit: int | None,
    config_name: str,
    item_scores: Path | None,
    losses: Path | None,
    out: Path,
    **kwargs: Any,
) -> None:
    """Fit a head on the untuned towers, or on the generator's own, and export it with its item vectors."""
    from attributary_train.errors import StudentError

    from .generator_making import train_generator
    from .making import train as make
    from .studio import first

    config = _config(config_name)
    if (labels is None) == (not scores):
        raise StudentError("labels", "give either --labels or --scores")
    if config.head != "generator" and (item_scores or losses):
        raise StudentError("config", f"{config.name} learns from neither --item-scores nor --losses")
    studio = _open(kwargs)
    told = first(studio.labels(labels) if labels else studio.scored(scores), limit)
    if config.head == "generator":
        fitted = train_generator(studio, config, told, out, say, item_scores=item_scores, losses=losses)
    else:
        fitted = make(studio, config, told, out, say)
    click.echo(f"{out}: {config.name}, {fitted.items.shape[1]} dimensions, {len(fitted.items)} items")


@student.command("item-scores")
@_STUDIO
@click.option("--method", default="dtrak", show_default=True, help="trak or dtrak.")
@click.option(
    "--set", "settings", multiple=True, metavar="NAME=VALUE", help="A setting of the method; repeat."
)
@click.option("--limit", default=2000, show_default=True, help="So many items at most, spread evenly.")
@click.option("--out", type=OUT, required=True, help="Score file to write (.npz).")
@on_threads
def items(method: str, settings: tuple[str, ...], limit: int, out: Path, **kwargs: Any) -> None:
    """What a method of gradients says of every item with items as queries, for `train --item-scores`."""
    import torch

    from attributary_train.errors import StudentError
    from attributary_train.evaluation.scores import save_scores
    from attributary_train.teacher.registry import Context, create
    from attributary_train.teacher.trak import Trak

    from .item_queries import item_scores

    studio = _open(kwargs)
    subject = studio.subject
    context = Context(studio.folder, subject.corpus, kwargs["cache"], torch.get_num_threads())
    made = create(method, context, dict(setting(entry) for entry in settings))
    if not isinstance(made, Trak):
        raise StudentError("method", f"{method} keeps no features of items; trak and dtrak do")
    made.fit(subject.data, subject.model)
    found = item_scores(made, subject.data, subject.model, limit)
    save_scores(found, out)
    click.echo(f"{out}: {len(found.queries)} of {len(found.ids)} items")


@student.command("sweep")
@_STUDIO
@_LABELS
@_LIMIT
@click.option(
    "--labels-validation", type=FOLDER, required=True, help="Labels that configurations are compared on."
)
@click.option("--config", "names", multiple=True, help="Only these; repeat. By default all.")
@click.option(
    "--keep", type=OUT_FOLDER, help="Folder that keeps finished lines, so that a killed sweep goes on."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--out", type=OUT, help="Also write the JSON here.")
@on_threads
def sweep(
    labels: Path,
    limit: int | None,
    labels_validation: Path,
    names: tuple[str, ...],
    keep: Path | None,
    as_json: bool,
    out: Path | None,
    **kwargs: Any,
) -> None:
    """Fit every configuration and compare them on validation queries, with prompts and without."""
    from .config import CONFIGS
    from .studio import first
    from .sweeping import run_sweep

    configs = [_config(name) for name in (names or CONFIGS)]
    studio = _open(kwargs)
    report = run_sweep(
        studio, configs, first(studio.labels(labels), limit), studio.labels(labels_validation, "validation"), keep,
        say,
    )  # fmt: skip
    show_report(report, as_json, out)


@student.command("distil")
@_STUDIO
@_LABELS
@_LIMIT
@click.option("--student", "teacher", type=FOLDER, required=True, help="Folder of `student train`.")
@click.option("--pictures", type=FOLDER, help="Folder of `student pictures`.")
@click.option("--epochs", default=12, show_default=True)
@click.option("--texts", default=14000, show_default=True, help="Prompts without pictures.")
@click.option("--out", type=OUT_FOLDER, required=True, help="Folder; an interrupted run goes on from it.")
@on_threads
def distil(
    labels: Path,
    limit: int | None,
    teacher: Path,
    pictures: Path | None,
    epochs: int,
    texts: int,
    out: Path,
    **kwargs: Any,
) -> None:
    """Distil a student into the compact network that is served, and export fp32, fp16 and int8."""
    from attributary_train.subject.queries import load_queries

    from .distil import DistilSettings
    from .making import distil_compact
    from .studio import first

    studio = _open(kwargs)
    files = sorted(pictures.glob("*.parquet")) if pictures else []
    more = [load_queries(path, studio.subject.model) for path in files]
    distil_compact(
        studio, teacher, first(studio.labels(labels), limit), more, out, say,
        settings=DistilSettings(epochs=epochs), texts=texts,
    )  # fmt: skip
    click.echo(f"{out}: {sum(path.stat().st_size for path in out.glob('encoder.onnx')) / 1e6:.1f} MB in fp32")


@student.command("own-words")
@_STUDIO
@click.option("--student", "teacher", type=FOLDER, required=True, help="Folder of a generator student.")
@click.option("--out", type=OUT_FOLDER, required=True, help="Folder of the student.")
@on_threads
def own_words(teacher: Path, out: Path, **kwargs: Any) -> None:
    """Give a generator student a small text tower of its own for the packaged one: a tenth of its size."""
    from .own_words_making import give_own_words

    give_own_words(_open(kwargs), teacher, out, say)
    click.echo(f"{out}: {(out / 'encoder.onnx').stat().st_size / 1e6:.1f} MB in fp32")


@student.command("gradient")
@_STUDIO
@click.option(
    "--student", "teacher", type=FOLDER, required=True, help="Folder of a student, finished otherwise."
)
@click.option("--weight", default=0.5, show_default=True, help="Of the gradients beside what was learnt.")
@click.option("--apart", default=0.6, show_default=True, help="Part of the items' mean that is taken away.")
@click.option("--power", default=0.5, show_default=True, help="Of the lengths; 0: all are equal.")
@click.option("--out", type=OUT_FOLDER, required=True, help="Folder of the student.")
@on_threads
def gradient(teacher: Path, weight: float, apart: float, power: float, out: Path, **kwargs: Any) -> None:
    """Let a generator student take the generator's gradient too, and give its items their lengths among these."""
    from .gradient_head import GradientSettings
    from .gradient_making import give_gradient

    settings = GradientSettings(weight=weight, apart=apart, power=power)
    give_gradient(_open(kwargs), teacher, out, say, settings)
    click.echo(f"{out}: {(out / 'encoder.onnx').stat().st_size / 1e6:.1f} MB, items have lengths")


@student.command("score")
@_STUDIO
@click.option("--student", "folder", type=FOLDER, required=True, help="Folder of a student.")
@click.option(
    "--split", type=click.Choice(["train", "validation", "test"]), default="test", show_default=True
)
@click.option("--without-prompt", is_flag=True, help="Hide the prompts.")
@click.option("--variant", default="encoder.onnx", show_default=True, help="Encoder file of the folder.")
@click.option("--shares", is_flag=True, help="Scores as the student's calibration.json makes shares of them.")
@click.option("--name", default="", help="Name in the file and in tables.")
@click.option("--out", type=OUT, required=True, help="Score file to write (.npz).")
@on_threads
def score(
    folder: Path,
    split: str,
    without_prompt: bool,
    variant: str,
    shares: bool,
    name: str,
    out: Path,
    **kwargs: Any,
) -> None:
    """Ask a student about every item, into a score file that `evaluate` reads."""
    from attributary.building.calibration_file import CALIBRATION
    from attributary_train.evaluation.scores import save_scores

    from .asking import score_file

    studio = _open(kwargs)
    found = score_file(
        studio, folder, studio.queries.split(split), variant=variant, prompts=not without_prompt, name=name,
        calibration=folder / CALIBRATION if shares else None,
    )  # fmt: skip
    save_scores(found, out)
    click.echo(f"{out}: {len(found.queries)} queries x {len(found.ids)} items")


@student.command("show")
@click.argument("folder", type=FOLDER)
@on_threads
def show(folder: Path) -> None:
    """Say what a student is, what it was made for, and what was measured."""
    from .folder import read_facts

    facts = read_facts(folder)
    click.echo(
        f"{facts['name']} ({facts['kind']}), {facts['dim']} dimensions, {facts['corpus']['items']} items"
    )
    click.echo(f"generator {facts['subject']['id']} {facts['subject']['weights'][:12]}")
    click.echo(f"labels {facts['labels']['digest'][:12]}, {facts['labels']['queries']} queries")
    for name, entry in facts["files"].items():
        click.echo(f"  {entry['bytes']:>12,}  {entry['sha256'][:12]}  {name}")
    click.echo(json.dumps(facts["config"], indent=2))


def _config(name: str) -> Any:
    from attributary_train.errors import StudentError

    from .config import StudentConfig, config_named

    path = Path(name)
    if path.suffix != ".json":
        return config_named(name)
    try:
        return StudentConfig.from_json(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise StudentError(name, f"is no configuration: {error}") from error
