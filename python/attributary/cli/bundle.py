"""`attributary bundle`: build, verify, inspect; what changes a bundle is in `lifecycle.py`."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from attributary.attribution.open import open_engine
from attributary.attribution.snapshot import Snapshot
from attributary.building import BuildReport, build_bundle, build_from_embeddings, build_from_student
from attributary.building.embeddings import open_embeddings
from attributary.building.from_embeddings import plan_size
from attributary.bundle.bundle import Bundle
from attributary.bundle.manifest import INT8_LEFT_OUT, Manifest
from attributary.delta.journal.place import changes_of
from attributary.index.planning import IndexBudget
from attributary.plain import json_line, plain

from .held import held_command
from .lifecycle import add_command, adopt_command, compact_command, delete_command, log_command
from .opt_out import opt_out_command
from .options import PATH, json_option
from .served import alias_command, load_command, served_command, unload_command

_DEFAULT = IndexBudget()


@click.group("bundle")
def bundle_group() -> None:
    """Make, change and look at bundles."""


for _command in (
    add_command,
    held_command,
    delete_command,
    opt_out_command,
    compact_command,
    adopt_command,
    log_command,
):
    bundle_group.add_command(_command)
for _command in (load_command, unload_command, alias_command, served_command):
    bundle_group.add_command(_command)


@bundle_group.command("build")
@click.option("--corpus", type=PATH, help="items.parquet and pictures")
@click.option(
    "--embeddings",
    type=PATH,
    help="in place of --corpus: vectors of --encoder's that exist (.npy, Parquet, a folder of clip-retrieval)",
)
@click.option("--items", type=PATH, help="with --embeddings: Parquet file of the items")
@click.option(
    "--pictures",
    type=PATH,
    help="with --embeddings: the folder that the items' column file (or image_path) leads into; some are checked",
)
@click.option("--encoder", type=PATH, help="an exported encoder")
@click.option(
    "--student",
    type=PATH,
    help="in place of --encoder: a student with item vectors; --corpus may then be an items.parquet alone",
)
@click.option(
    "--queries",
    type=PATH,
    help="with --student: generated pictures and queries.json, to measure the index and record golden queries",
)
@click.option("--calibration", type=PATH, help="with --student: default: its calibration.json")
@click.option("--out", type=PATH, required=True, help="directory to make")
@click.option("--version", default="1", show_default=True, help="the bundle's own version string")
@click.option(
    "--generator", default="", help="with --student: the generator's name for people; default: its recipe's"
)
@click.option(
    "--names-in-prompts",
    type=click.Choice(["masked", "read"]),
    default="masked",
    show_default=True,
    help="whether the name of a creator in a prompt may move shares",
)
@click.option("--bytes-per-item", type=float, default=_DEFAULT.bytes_per_item, show_default=True)
@click.option("--target-recall", type=float, default=_DEFAULT.target_recall, show_default=True)
@click.option(
    "--recall-at",
    type=int,
    default=_DEFAULT.recall_at,
    show_default=True,
    help="of how many nearest items --target-recall is the share that must be found",
)
@click.option("--max-candidates", type=int, default=_DEFAULT.max_candidates, show_default=True)
@click.option("--target", type=click.Choice(["cpu", "gpu"]), default="cpu", show_default=True)
@click.option("--exclude-creator", multiple=True, help="leave this creator's items out; repeatable")
@click.option("--limit", type=click.IntRange(min=1), default=None, help="only the first items")
@click.option("--workers", type=click.IntRange(min=1), default=None, help="threads; default: every core")
@click.option(
    "--thumbnails", is_flag=True, help="put small pictures of the items in, for the page of `serve --ui`"
)
@click.option(
    "--thumbnail-licence",
    multiple=True,
    help="with --thumbnails: only of items under this licence; repeatable",
)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--force", is_flag=True, help="replace an existing bundle once the new one is complete")
def build_command(
    corpus: Path | None,
    embeddings: Path | None,
    items: Path | None,
    pictures: Path | None,
    encoder: Path | None,
    student: Path | None,
    queries: Path | None,
    calibration: Path | None,
    out: Path,
    generator: str,
    names_in_prompts: str,
    exclude_creator: tuple[str, ...],
    limit: int | None,
    workers: int | None,
    thumbnails: bool,
    thumbnail_licence: tuple[str, ...],
    **given: Any,
) -> None:
    """Embed a corpus, build and tune its index, calibrate, record golden queries.

    With --student the item vectors and the calibration are the student's, and the bundle holds its items only. With
    --embeddings vectors are streamed from files; a build that was stopped goes on where it was.
    """
    budget = IndexBudget(
        **{entry.name: given.pop(entry.name) for entry in fields(IndexBudget) if entry.name in given}
    )
    if thumbnail_licence and not thumbnails:
        raise click.UsageError("--thumbnail-licence needs --thumbnails")
    shown = thumbnail_licence if thumbnails else None
    if generator and student is None:
        raise click.UsageError("--generator needs --student")
    # What is left of `given`: version, seed, force.
    given |= {"budget": budget, "names_in_prompts": "read" if names_in_prompts == "read" else ""}
    if embeddings is not None:
        if thumbnails:
            raise click.UsageError("--thumbnails needs --corpus with its pictures")
        if encoder is None or pictures is None or corpus or student or exclude_creator or limit is not None:
            raise click.UsageError(
                "--embeddings needs --encoder and --pictures, and has items of its own: no --corpus, --student, "
                "--exclude-creator, --limit"
            )
        click.echo(str(plan_size(open_embeddings(embeddings, items), budget)), err=True)
        report = _with_progress(
            build_from_embeddings,
            embeddings,
            encoder,
            pictures,
            out,
            items=items,
            workers=workers or os.cpu_count() or 1,
            **given,
        )
    elif corpus is None:
        raise click.UsageError("give --corpus or --embeddings")
    elif student is not None:
        if encoder is not None or exclude_creator or limit is not None:
            raise click.UsageError(
                "--student brings its encoder and its items: no --encoder, --exclude-creator, --limit"
            )
        if queries is None:
            raise click.UsageError("--student needs --queries")
        report = build_from_student(
            student,
            corpus,
            queries,
            out,
            calibration=calibration,
            generator=generator,
            thumbnails=shown,
            **given,
        )
    elif encoder is None:
        raise click.UsageError("give --encoder or --student")
    else:
        report = _with_progress(
            build_bundle,
            corpus,
            encoder,
            out,
            exclude_creators=exclude_creator,
            limit=limit,
            workers=workers,
            thumbnails=shown,
            **given,
        )
    _print(report.manifest)
    if why := report.manifest.notes.get(INT8_LEFT_OUT):
        click.echo(f"warning: the int8 encoder is left out of the bundle: {why}", err=True)
    if not report.target_recall_met:
        click.echo(
            f"warning: recall@10 {report.manifest.index.recall_at_10:.3f} is below the target {budget.target_recall}; "
            "allow more --bytes-per-item or --max-candidates",
            err=True,
        )


def _with_progress(build: Callable[..., BuildReport], *where: Path, **settings: Any) -> BuildReport:
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TimeRemainingColumn(),
    ) as bars:
        tasks: dict[str, TaskID] = {}

        def progress(phase: str, done: int, total: int) -> None:
            if phase not in tasks:
                tasks[phase] = bars.add_task(phase, total=total)
            bars.update(tasks[phase], completed=done)

        return build(*where, progress=progress, **settings)


@bundle_group.command("items")
@click.option("--student", type=PATH, required=True, help="whose items")
@click.option("--corpus", type=PATH, required=True, help="corpus that holds them")
@click.option("--out", type=PATH, required=True, help="Parquet file to write")
def items_command(student: Path, corpus: Path, out: Path) -> None:
    """Write the facts of a student's items to a table of their own: with it a bundle needs no corpus.

    What their pictures look like is among them, so that a picture of one is recognised.
    """
    import pyarrow.parquet as pq

    from attributary.building.looks import read_looks, with_looks
    from attributary.building.source import read_rows
    from attributary.building.student import read_student
    from attributary.encoder.onnx import OnnxEncoder

    found = read_student(student)
    size = OnnxEncoder(found.encoder_path).spec.image_size
    table = with_looks(read_rows(corpus, found.ids), read_looks(corpus, found.ids, size))
    pq.write_table(table, out, compression="zstd")
    click.echo(f"{out}: {len(table)} items")


@bundle_group.command("verify")
@click.argument("directory", type=PATH)
def verify_command(directory: Path) -> None:
    """Check every file's SHA-256 and ask the golden queries, as a server does before it opens a bundle."""
    engine = open_engine(directory)
    precisions = ["fp32"]
    if engine.bundle.int8_encoder_path is not None:
        open_engine(directory, precision="int8")
        precisions.append("int8")
    manifest = engine.bundle.manifest
    if why := manifest.notes.get(INT8_LEFT_OUT):
        click.echo(f"no int8 encoder, left out when the bundle was built: {why}", err=True)
    click.echo(
        f"bundle {manifest.bundle_id} holds: {len(manifest.files)} files, "
        f"{len(engine.bundle.golden.pixels)} golden queries ({', '.join(precisions)})"
    )


@bundle_group.command("inspect")
@click.argument("directory", type=PATH)
@json_option("print the manifest as JSON")
def inspect_command(directory: Path, as_json: bool) -> None:
    """Show what a bundle is; reads the manifest and checks that the parts belong together, hashes nothing."""
    bundle = Bundle.open(directory, verify=False)
    manifest, changes = bundle.manifest, changes_of(bundle)
    snapshot = Snapshot.of(bundle, None)
    present = snapshot.apply(changes) if changes else snapshot
    if as_json:
        now = {"items": present.item_count, "creators": _creators(present)}
        facts = {"bundle_id": manifest.bundle_id, "present": now, **asdict(manifest)}
        click.echo(json_line(facts))
    else:
        _print(manifest, present)
        if changes:
            deleted = sum(bundle.items.row_of(item_id) is not None for item_id in changes.deleted)
            gone = sum(item.id in changes.deleted for item in changes.added)
            click.echo(
                f"journal: revision {changes.revision}, {len(changes.added) - gone} items added, "
                f"{deleted} deleted since the bundle was made"
            )


def _creators(snapshot: Snapshot) -> int:
    of_row = snapshot.bundle.items.creator_of_row
    return len(np.unique(of_row if snapshot.alive is None else of_row[snapshot.alive]))


def _now(snapshot: Snapshot, built: str) -> str:
    return f"{snapshot.item_count:,} by {_creators(snapshot):,} creators now; built with {built}"


def _print(manifest: Manifest, present: Snapshot | None = None) -> None:
    index, encoder = manifest.index, manifest.encoder
    built = f"{manifest.item_count - manifest.withheld_count:,} by {manifest.creator_count:,} creators" + (
        f", {manifest.withheld_count:,} withheld" if manifest.withheld_count else ""
    )
    title = plain(f"bundle {manifest.bundle_id} (version {manifest.version})")
    table = Table(title=Text(title), show_header=False)
    for name, value in (
        ("subject model", manifest.subject.id),
        ("student", manifest.student),
        (
            "encoder",
            f"{encoder.name}, {encoder.dim} dimensions, {encoder.image_size} px, {encoder.digest[:12]}",
        ),
        ("items", built if present is None or present.revision == 0 else _now(present, built)),
        ("index", f"{index.factory}, nprobe {index.nprobe}, {index.candidates} candidates re-scored"),
        ("recall@10", f"{index.recall_at_10:.4f} on {index.recall_queries} held-out probes"),
        (
            "memory",
            f"{index.bytes_per_item:.0f} B an item in the index, {index.vector_bytes_per_item:.0f} B mapped",
        ),
        ("calibration", manifest.calibration.method),
        ("names", f"creators' names in prompts are {manifest.names_in_prompts or 'masked'}"),
    ):
        table.add_row(name, Text(plain(value)))
    Console().print(table)
