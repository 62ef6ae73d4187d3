"""`attributary-train label`: the teacher's word on many queries."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from attributary_train.console import FILE, FOLDER, OUT_FOLDER, clear_errors

if TYPE_CHECKING:
    from attributary_train.teacher.label_factory import Job, Made
    from attributary_train.teacher.labels import LabelSettings


@click.command("label")
@click.option("--subject", "subject_dir", type=FOLDER, required=True, help="Checkpoint of the generator.")
@click.option("--corpus", "corpus_dir", type=FOLDER, required=True, help="The corpus it was trained on.")
@click.option(
    "--queries", type=FILE, required=True, help="Queries, from `attributary-train subject queries`."
)
@click.option(
    "--out", type=OUT_FOLDER, required=True, help="Folder of the labels; an interrupted run goes on from it."
)
@click.option("--split", "splits", multiple=True, default=("train",), show_default=True)
@click.option("--limit", type=int, help="Label only the first so many queries.")
@click.option(
    "--nearest",
    default=200,
    show_default=True,
    help="Candidates by similarity.",
)
@click.option("--outside", default=200, show_default=True, help="Random others; both 0: every item.")
@click.option("--fisher", type=click.Choice(["ekfac", "diagonal"]), default="ekfac", show_default=True)
@click.option(
    "--target-change", default=0.01, show_default=True, help="Mean relative loss change a step aims at."
)
@click.option("--damping", default=0.1, show_default=True)
@click.option("--gradient-draws", default=256, show_default=True)
@click.option("--timesteps", default=5, show_default=True, help="Each with a noise and its mirror image.")
@click.option("--draw", default=0, show_default=True, help="Another number is an independent noise draw.")
@click.option("--per-shard", default=8, show_default=True, help="Queries a shard: what a kill costs at most.")
@click.option("--workers", default=2, show_default=True, help="Processes of one thread each; one a core.")
@click.option(
    "--device", "devices", multiple=True, default=("cpu",), help="Devices that workers take in turn."
)
@click.option("--retry-failed", is_flag=True, help="Make shards with failed queries again.")
@click.option("--ray", "on_ray", is_flag=True, help="Work on Ray: the same shards from several machines.")
@click.option("--ray-address", help="A running cluster; without it one is started here.")
@click.option("--gpus", default=0.0, show_default=True, help="GPUs of each Ray worker.")
@click.option("--cache", type=OUT_FOLDER, default=Path("out/cache/subject"), show_default=True)
@clear_errors()
def label(
    subject_dir: Path,
    corpus_dir: Path,
    queries: Path,
    out: Path,
    splits: tuple[str, ...],
    limit: int | None,
    nearest: int,
    outside: int,
    fisher: str,
    target_change: float,
    damping: float,
    gradient_draws: int,
    timesteps: int,
    draw: int,
    per_shard: int,
    workers: int,
    devices: tuple[str, ...],
    retry_failed: bool,
    on_ray: bool,
    ray_address: str | None,
    gpus: float,
    cache: Path,
) -> None:
    """Score each query's candidates by unlearning it (AbU+); Parquet shards, resumable after any interruption."""
    from attributary_train.teacher.abu import AbuSettings
    from attributary_train.teacher.candidates import CandidateSettings
    from attributary_train.teacher.label_factory import Job, make_labels
    from attributary_train.teacher.labels import LabelSettings

    teacher = AbuSettings(
        fisher="ekfac" if fisher == "ekfac" else "diagonal",
        damping=damping,
        target_change=target_change,
        gradient_draws=gradient_draws,
        timesteps=timesteps,
        draw=draw,
    )
    settings = LabelSettings(teacher, CandidateSettings(nearest, outside), per_shard)
    job = Job(out, subject_dir, corpus_dir, queries, cache, splits, limit)
    if on_ray:
        made = _on_ray(job, settings, workers, gpus, ray_address, retry_failed)
    else:
        made = make_labels(
            job, settings, workers=workers, devices=devices, retry_failed=retry_failed, log=click.echo
        )
    rate = made.pairs / made.seconds if made.seconds else 0.0
    click.echo(f"{out}: {made.queries} labels, {made.failed} failed; {made.pairs:,} pairs at {rate:,.0f}/s")


def _on_ray(
    job: Job, settings: LabelSettings, workers: int, gpus: float, address: str | None, retry_failed: bool
) -> Made:
    from attributary_train.errors import TeacherError

    try:
        from attributary_train.teacher.label_ray import label_on_ray
    except ImportError as error:
        raise TeacherError("--ray", f"Ray is not installed ({error}); pip install ray[default]") from error
    return label_on_ray(
        job,
        settings,
        actors=workers,
        gpus=gpus,
        address=address,
        retry_failed=retry_failed,
        log=click.echo,
    )
