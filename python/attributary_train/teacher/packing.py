"""Finished labels in one shard, without what only their machine needs: small enough to be kept beside the code."""

from __future__ import annotations

from pathlib import Path

import click

from attributary_train.console import FOLDER, OUT_FOLDER, clear_errors
from attributary_train.errors import TeacherError
from attributary_train.teacher.labels import read_facts, read_labels, read_plan, write_facts, write_shard


def pack_labels(folder: Path, out: Path) -> int:
    """Write the labels of `folder` to the new folder `out`: labels.json and one shard; returns how many queries.

    Left behind: paths, the plan, factors and baseline losses, which only unfinished labels need. Readers take either.
    Raises `TeacherError` if labels are missing or `out` exists.
    """
    facts = read_facts(folder)
    labels = read_labels(folder)
    planned = [entry.query for shard in read_plan(folder).values() for entry in shard]
    missing = set(planned) - {label.query for label in labels}
    if missing:
        raise TeacherError(str(folder), f"{len(missing)} of {len(planned)} queries are not labelled yet")
    if out.exists():
        raise TeacherError(str(out), "exists; choose another folder")
    write_shard(out, 0, labels)
    write_facts(out, {name: value for name, value in facts.items() if name != "paths"})
    return len(labels)


@click.command("pack-labels")
@click.option("--labels", type=FOLDER, required=True, help="Finished.")
@click.option("--out", type=OUT_FOLDER, required=True, help="New folder.")
@clear_errors()
def pack(labels: Path, out: Path) -> None:
    """Write finished labels as one shard, without paths and factors."""
    count = pack_labels(labels, out)
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    click.echo(f"{out}: {count} queries, {size / 1e6:.1f} MB")
