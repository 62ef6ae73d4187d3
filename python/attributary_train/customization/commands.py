"""`attributary-train abc ...`: Attribution by Customization."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click

_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_OUT = click.Path(file_okay=False, path_type=Path)
_OUT_FILE = click.Path(dir_okay=False, path_type=Path)
Command = TypeVar("Command", bound=Callable[..., Any])


@click.group("abc")
def abc() -> None:
    """Make pictures whose sources are known, compare feature spaces on them, tune maps, calibrate scores."""


@contextmanager
def _told() -> Iterator[None]:
    """Every known error becomes one line."""
    from attributary_train.corpus import CorpusError
    from attributary_train.customization.errors import CustomizationError
    from attributary_train.evaluation.errors import EvaluationError
    from attributary_train.subject.errors import SubjectError

    try:
        yield
    except (CustomizationError, SubjectError, CorpusError, EvaluationError) as error:
        raise click.ClickException(str(error)) from error


@abc.command("make")
@click.option(
    "--subject",
    "subject_dir",
    type=_FOLDER,
    required=True,
    help="Checkpoint, or a Stable Diffusion directory.",
)
@click.option("--corpus", "corpus_dir", type=_FOLDER, required=True)
@click.option(
    "--out", type=_OUT, required=True, help="Folder of the data set; an interrupted run goes on from it."
)
@click.option(
    "--exemplars", "exemplar_file", type=_FILE, help="JSON list of exemplars; by default they are chosen."
)
@click.option(
    "--objects", default="160,40,60,60", show_default=True, help="Train, validation, seen test, unseen test."
)
@click.option("--styles", default="64,16,40,40", show_default=True, help="The same for sets of one creator.")
@click.option("--pictures", default=8, show_default=True, help="Generated pictures an exemplar.")
@click.option("--tuning-steps", default=100, show_default=True)
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
def make(
    subject_dir: Path,
    corpus_dir: Path,
    out: Path,
    exemplar_file: Path | None,
    objects: str,
    styles: str,
    pictures: int,
    tuning_steps: int,
    steps: int,
    guidance: float,
    seed: int,
    max_creator_share: float,
    workers: int,
) -> None:
    """Tune the model toward exemplars and generate pictures whose source is known; resumable."""
    import torch

    from attributary_train.corpus import Corpus
    from attributary_train.customization.choose import Choice
    from attributary_train.customization.exemplars import load_exemplars
    from attributary_train.customization.maker import Job
    from attributary_train.customization.maker import make as run
    from attributary_train.customization.plan import MakeSettings
    from attributary_train.customization.tuning import TuneSettings

    torch.set_num_threads(1)
    with _told():
        chosen = None
        if exemplar_file is not None:
            chosen = tuple(load_exemplars(exemplar_file, Corpus.open(corpus_dir)))
        choice = Choice(
            _counts("objects", objects),
            _counts("styles", styles),
            max_creator_share=max_creator_share,
            seed=seed,
        )
        settings = MakeSettings(TuneSettings(steps=tuning_steps), pictures, steps, guidance, seed=seed)
        manifest = run(
            Job(out, subject_dir, corpus_dir, chosen, choice), settings, workers=workers, log=click.echo
        )
    click.echo(json.dumps(manifest["counts"], indent=1))
    click.echo(f"{out}: {manifest['pictures']} pictures, {len(manifest['failed'])} exemplars failed")


def _counts(name: str, text: str) -> Any:
    from attributary_train.customization.choose import Counts
    from attributary_train.customization.errors import CustomizationError

    try:
        train, validation, seen, unseen = (int(part) for part in text.split(","))
    except ValueError:
        raise CustomizationError(
            name, f"{text!r}; must be four numbers with commas, as 160,40,60,60"
        ) from None
    return Counts(train, validation, seen, unseen)
