"""`attributary-train calibrate ...`: fit shares to a teacher's mass, report on held-out queries, compare flags."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from attributary_train.console import FILE, FOLDER, OUT, on_threads
from attributary_train.errors import EvaluationError
from attributary_train.evaluation.options import LABELS, MODEL, OUTPUT, QUERY_FILE, say
from attributary_train.files import write_text

if TYPE_CHECKING:
    from attributary_train.calibration.held import Held, StudentEncoder
    from attributary_train.evaluation.opening import Subject

_STUDENT = click.option(
    "--student", "student_dir", type=FOLDER, required=True, help="Folder of `student train`."
)
_LABELS = click.option(
    "--labels", type=LABELS, required=True, help="The teacher's labels of the split, or a score file (.npz)."
)
_CALIBRATION = click.option(
    "--calibration", "calibration_file", type=FILE, help="Default: calibration.json of the student."
)


@click.group("calibrate")
def calibrate() -> None:
    """Shares that mean something: fit, report, out-of-distribution flag."""


@calibrate.command("fit")
@_STUDENT
@MODEL
@QUERY_FILE
@_LABELS
@click.option("--split", default="validation", show_default=True, help="Never the one that is reported on.")
@click.option("--level", type=float, help="Spreads above the median that an item stands out from.")
@click.option(
    "--candidates", type=click.IntRange(min=10), help="Items that compete; default: all, at most 2,000."
)
@click.option("--false-alarms", type=float, help="Share of generated pictures that may be flagged.")
@click.option(
    "--generated",
    type=FILE,
    help="Further queries of the generator, for the flag's threshold: their validation split, 1,000 at best.",
)
@click.option("--out", type=OUT, help="Default: calibration.json in the student's folder.")
@on_threads
def fit(
    split: str,
    level: float | None,
    candidates: int | None,
    false_alarms: float | None,
    generated: Path | None,
    out: Path | None,
    **asked: Any,
) -> None:
    """Fit the shares' parameters and the flag's threshold to held-out labels; write calibration.json."""
    from attributary.building.calibration_file import CALIBRATION
    from attributary_train.calibration.fitting import fit_file
    from attributary_train.calibration.held import Generated
    from attributary_train.calibration.mass import LEVEL
    from attributary_train.calibration.ood import FALSE_ALARMS

    student, subject, held = _open(split=split, level=LEVEL if level is None else level, **asked)
    made, losses = fit_file(
        student.folder,
        held,
        split=split,
        level=LEVEL if level is None else level,
        candidates=candidates,
        false_alarms=FALSE_ALARMS if false_alarms is None else false_alarms,
        generated=None if generated is None else Generated.of(student, subject, generated),
    )
    target = out or asked["student_dir"] / CALIBRATION
    made.write(target)
    for kind, fitted in losses.items():
        shares = fitted.calibration
        click.echo(
            f"{kind}: reach {shares.reach}, temperature {shares.temperature:g}, background {shares.background:g}, "
            f"floor {shares.diffuse_floor:g}, flag below {shares.ood_similarity:g}, whole {shares.ood_margin:g} "
            f"above; loss {fitted.loss:.4f} nats; {fitted.hidden:.1%} of the mass unnamed"
        )
    if made.calibration.pixels:
        click.echo(f"pixels: flag beyond {made.calibration.pixels.limit:g}")
    click.echo(f"wrote {target}")


@calibrate.command("report")
@_STUDENT
@MODEL
@QUERY_FILE
@_LABELS
@click.option("--split", default="test", show_default=True)
@_CALIBRATION
@click.option("--plot", type=OUT, help="Write the reliability diagram here (SVG).")
@click.option("--record", is_flag=True, help="Note errors and agreement in the calibration, for its bundles.")
@OUTPUT
@on_threads
def report(
    split: str,
    calibration_file: Path | None,
    plot: Path | None,
    record: bool,
    as_json: bool,
    out: Path | None,
    **asked: Any,
) -> None:
    """Reliability, zeros, sums, creators' totals and agreement on queries that nothing was fitted to."""
    from attributary.building.calibration_file import CALIBRATION, CalibrationFile
    from attributary_train.calibration import reporting
    from attributary_train.calibration.printing import show

    path = calibration_file or asked["student_dir"] / CALIBRATION
    file = CalibrationFile.read(path)
    level = float(file.measured.get("fit", {}).get("level", 3.0))
    student, _, held = _open(split=split, level=level, **asked)
    content, measured = reporting.full_report(student.folder, held, file, split)
    if plot is not None:
        from attributary_train.calibration.plot import reliability_svg
        from attributary_train.calibration.report import PANELS

        write_text(plot, reliability_svg(content["results"], PANELS), EvaluationError)
    if record:
        reporting.recorded(file, measured).write(path)
    show(content, as_json, out)


@calibrate.command("flag")
@_STUDENT
@MODEL
@QUERY_FILE
@_CALIBRATION
@click.option(
    "--foreign", "foreign", multiple=True, metavar="NAME=FOLDER", help="Pictures of another origin; repeat."
)
@click.option(
    "--generated", type=FILE, help="The queries that the flag was fitted to; default: those of --queries."
)
@click.option("--count", default=100, show_default=True, help="Pictures of each foreign set, at most.")
@click.option("--seed", default=0, show_default=True)
@OUTPUT
@on_threads
def flag(
    student_dir: Path,
    subject_dir: Path,
    corpus_dir: Path,
    cache: Path,
    query_file: Path,
    calibration_file: Path | None,
    foreign: tuple[str, ...],
    generated: Path | None,
    count: int,
    seed: int,
    as_json: bool,
    out: Path | None,
) -> None:
    """Which score tells foreign pictures from generated ones; needs no labels."""
    from attributary.building.calibration_file import CALIBRATION, CalibrationFile
    from attributary.building.student import read_student
    from attributary_train.calibration.flagging import compare
    from attributary_train.calibration.held import StudentEncoder
    from attributary_train.calibration.printing import show
    from attributary_train.evaluation.opening import Subject

    folders = {}
    for entry in foreign:
        name, equals, place = entry.partition("=")
        if not (name and equals and Path(place).is_dir()):
            raise click.UsageError(f"--foreign {entry}: write NAME=FOLDER, a folder that exists")
        folders[name] = Path(place)
    path = calibration_file or student_dir / CALIBRATION
    file = CalibrationFile.read(path) if path.is_file() else None
    subject = Subject.open(subject_dir, corpus_dir, cache)
    student = StudentEncoder(read_student(student_dir))
    show(
        compare(student, subject, query_file, folders, file, generated=generated, count=count, seed=seed),
        as_json,
        out,
    )


@calibrate.command("noise")
@click.option("--first", type=LABELS, required=True, help="Labels of some queries, or a score file (.npz).")
@click.option("--second", type=LABELS, required=True, help="Those of the same with another draw.")
@click.option("--items", type=int, required=True, help="Items of the training set.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@on_threads
def noise(first: Path, second: Path, items: int, as_json: bool) -> None:
    """How much of the teacher's mass changes with the noise: a reference for what calibration reaches."""
    from attributary_train.calibration.noise import compare_draws
    from attributary_train.evaluation.strict_json import strict_json
    from attributary_train.evaluation.tables import readable

    content = compare_draws(first, second, items)
    click.echo(strict_json(content) if as_json else readable(content))


def _open(
    student_dir: Path,
    subject_dir: Path,
    corpus_dir: Path,
    cache: Path,
    query_file: Path,
    labels: Path,
    split: str,
    level: float,
) -> tuple[StudentEncoder, Subject, Held]:
    from attributary.building.student import read_student
    from attributary_train.calibration.held import StudentEncoder, open_held
    from attributary_train.evaluation.opening import Subject

    student = StudentEncoder(read_student(student_dir))
    subject = Subject.open(subject_dir, corpus_dir, cache)
    held = open_held(student, subject, query_file, labels, split, level=level)
    if held.failed:
        say(f"{held.failed} queries have no label: the teacher failed on them")
    return student, subject, held
