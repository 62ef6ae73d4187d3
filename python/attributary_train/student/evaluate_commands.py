"""`attributary-train evaluate student` and `retrieval`: students and encoders beside what they are to be judged by."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from attributary_train.console import FILE, FOLDER, OUT_FOLDER, on_threads

from ..evaluation.options import MODEL, OUTPUT, QUERY_FILE, show


@click.command("student")
@MODEL
@QUERY_FILE
@click.option(
    "--student", "folders", type=FOLDER, multiple=True, required=True, help="Folder of a student; repeat."
)
@click.option("--labels-test", type=FOLDER, required=True, help="Labels against the whole training set.")
@click.option("--labels-again", type=FOLDER, help="The same teacher's labels under other noise.")
@click.option("--variant", "variants", multiple=True, default=("encoder.onnx",), show_default=True)
@click.option("--scores", "score_files", type=FILE, multiple=True, help="Score file of a baseline; repeat.")
@click.option("--split", default="test", show_default=True, type=click.Choice(["validation", "test"]))
@click.option("--scores-out", type=OUT_FOLDER, help="Keep the students' scores here.")
@OUTPUT
@on_threads
def student(
    subject_dir: Path,
    corpus_dir: Path,
    cache: Path,
    query_file: Path,
    folders: tuple[Path, ...],
    labels_test: Path,
    labels_again: Path | None,
    variants: tuple[str, ...],
    score_files: tuple[Path, ...],
    split: str,
    scores_out: Path | None,
    as_json: bool,
    out: Path | None,
) -> None:
    """Agreement of students with the teacher: with prompts and without, by kind of prompt, beside the baselines."""
    from ..evaluation.from_labels import require_queries, scores_of_labels
    from ..evaluation.scores import load_scores, save_scores
    from .agreement import run_student_agreement
    from .asking import score_file
    from .export import ENCODER
    from .studio import Studio

    studio = Studio.open(subject_dir, corpus_dir, query_file, cache)
    truth = scores_of_labels(labels_test, "abu+", (split,))
    queries = studio.queries.split(split)
    require_queries(truth, queries)
    students, without = [], {}
    for variant in variants:
        if not any((folder / variant).exists() for folder in folders):
            raise click.UsageError(f"--variant {variant}: no student's folder holds it")
    for folder in folders:
        for variant in variants:
            if variant != ENCODER and not (folder / variant).exists():
                continue  # Only some students have int8 and fp16.
            name = folder.name + ("" if variant == ENCODER else f" {variant.split('.')[1]}")
            students.append(score_file(studio, folder, queries, variant=variant, name=name))
            without[name] = score_file(
                studio, folder, queries, variant=variant, prompts=False, name=f"{name}, no prompt"
            )
    for file in [*students, *without.values()] if scores_out else []:
        assert scores_out is not None
        save_scores(file, scores_out / (file.method.replace(", ", "-").replace(" ", "-") + ".npz"))
    again = scores_of_labels(labels_again, "abu+ again", (split,)) if labels_again else None
    baselines = [load_scores(path, weights=truth.weights) for path in score_files]
    kinds = dict(zip(queries.names, queries.kinds, strict=True))
    show(run_student_agreement(truth, students, without, baselines, again, kinds), as_json, out)


@click.command("retrieval")
@click.option("--bundle", type=FOLDER, help="A bundle: its encoder, its vectors, its items.")
@click.option("--encoder", type=FOLDER, help="An exported encoder; the corpus is embedded.")
@click.option("--corpus", type=FOLDER, required=True, help="The corpus that is indexed.")
@click.option("--held-out", type=FOLDER, help="Drawings of known concepts, left out of the index.")
@click.option("--split", type=click.Choice(["validation", "test"]), default="test", show_default=True)
@click.option("--copies", default=500, show_default=True, help="Changed copies to look for.")
@click.option("--int8", is_flag=True, help="Ask with the int8 variant; the index stays that of the original.")
@click.option("--threads", default=2, show_default=True, help="Cores to use.")
@click.option(
    "--cache",
    type=OUT_FOLDER,
    help="Folder that keeps embeddings between runs.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def retrieval(as_json: bool, **chosen: Any) -> None:
    """Changed copies at rank 1, and other creators' drawings of a concept in the top 10, by exact search."""
    from ..evaluation.strict_json import strict_json
    from .retrieval_report import Setup, measure

    setup = Setup(**chosen)
    if (setup.bundle is None) == (setup.encoder is None):
        raise click.UsageError("give either --bundle or --encoder")
    report = measure(setup)
    if as_json:
        click.echo(strict_json(report))
        return
    for name, value in report["results"].items():
        click.echo(f"{name}: {json.dumps(value)}")
    for aim in report["aims"]:
        mark = "met" if aim["met"] else "NOT met"
        click.echo(f"{aim['name']}: {aim['value']:.3f}, aim {aim['aim']} {aim['unit']}, {mark}")
