"""What several commands of the evaluation share: options, errors in one line, reports."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from attributary_train.console import FILE, FOLDER, OUT, OUT_FOLDER, options

# A label factory's folder, or a score file.
LABELS = click.Path(exists=True, path_type=Path)


MODEL = options(
    click.option("--subject", "subject_dir", type=FOLDER, required=True, help="Checkpoint under study."),
    click.option("--corpus", "corpus_dir", type=FOLDER, required=True, help="The corpus it was trained on."),
    click.option("--cache", type=OUT_FOLDER, default=Path("out/cache/subject"), show_default=True),
    click.option(
        "--threads", default=1, show_default=True, help="Cores of this process; workers take one each."
    ),
)
QUERY_FILE = click.option(
    "--queries", "query_file", type=FILE, required=True, help="File of `subject queries`."
)
SPLIT = options(
    click.option(
        "--split", type=click.Choice(["train", "validation", "test"]), default="test", show_default=True
    ),
    click.option("--limit", type=int, help="Only so many queries, spread evenly over the split."),
)
RETRAIN = options(
    click.option("--store", type=OUT_FOLDER, default=Path("out/retrains"), show_default=True),
    click.option("--workers", default=2, show_default=True, help="Single-threaded processes; one a core."),
    click.option("--save-every", default=250, show_default=True, help="Steps between checkpoints of a run."),
    click.option(
        "--device", "devices", multiple=True, default=("cpu",), help="Devices that workers take in turn."
    ),
    click.option("--retry-failed", is_flag=True, help="Try failed runs again."),
)
OUTPUT = options(
    click.option("--json", "as_json", is_flag=True, help="Print one JSON object."),
    click.option("--out", type=OUT, help="Also write the JSON here."),
)
METHODS = options(
    click.option("--scores", "score_files", type=FILE, multiple=True, help="Score file of a method; repeat."),
    click.option(
        "--best", default="abu+", show_default=True, help="The method that is compared with the others."
    ),
)
GRID = options(
    click.option("--timesteps", default=50, show_default=True, help="Of the query loss."),
    click.option("--draws", default=2, show_default=True, help="Of noise at each timestep."),
)
PLAN = click.option("--plan", "plan_file", type=OUT, help="Write the runs here instead of training them.")


def setting(entry: str) -> tuple[str, Any]:
    """NAME=VALUE; the value is read as JSON where it is some."""
    name, equals, value = entry.partition("=")
    if not (name and equals):
        raise click.UsageError(f"--set {entry}: write NAME=VALUE")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def show(report: dict[str, Any], as_json: bool, out: Path | None) -> None:
    """Print a report, and write it where asked."""
    from attributary_train.errors import EvaluationError
    from attributary_train.files import write_text

    from .strict_json import strict_json
    from .tables import readable

    if out is not None:
        write_text(out, strict_json(report) + "\n", EvaluationError)
    click.echo(strict_json(report) if as_json else readable(report))


def say(line: str) -> None:
    """Progress goes to standard error, so that --json stays clean."""
    click.echo(line, err=True)
