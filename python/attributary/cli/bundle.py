"""`attributary bundle`: build, verify, inspect; what changes a bundle is in `lifecycle.py`."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

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
from .options import AT_LEAST_1, Argument, From, Option, declared
from .served import alias_command, load_command, served_command, unload_command


@click.group("bundle")
def bundle_group() -> None:
    """Make, change and look at bundles."""


for _command in (
    *(
        add_command,
        held_command,
        delete_command,
        opt_out_command,
        compact_command,
        adopt_command,
        log_command,
    ),
    *(load_command, unload_command, alias_command, served_command),
):
    bundle_group.add_command(_command)


_BUDGET = {
    **dict.fromkeys(("bytes_per_item", "target_recall", "max_candidates", "target"), ""),
    "recall_at": "of how many nearest items --target-recall is the share that must be found",
}


@bundle_group.command("build")
@declared
def build_command(
    *,
    corpus: Annotated[Path | None, "items.parquet and pictures"] = None,
    embeddings: Annotated[
        Path | None,
        "in place of --corpus: vectors of --encoder's that exist (.npy, Parquet, a folder of clip-retrieval)",
    ] = None,
    items: Annotated[Path | None, "with --embeddings: Parquet file of the items"] = None,
    pictures: Annotated[
        Path | None,
        "with --embeddings: the folder that the items' column file (or image_path) leads into; some are checked",
    ] = None,
    encoder: Annotated[Path | None, "an exported encoder"] = None,
    student: Annotated[
        Path | None,
        "in place of --encoder: a student with item vectors; --corpus may then be an items.parquet alone",
    ] = None,
    queries: Annotated[
        Path | None,
        "with --student: generated pictures and queries.json, to measure the index and record golden queries",
    ] = None,
    calibration: Annotated[Path | None, "with --student: default: its calibration.json"] = None,
    out: Annotated[Path, "directory to make"],
    version: Annotated[str, "the bundle's own version string"] = "1",
    generator: Annotated[str, "with --student: the generator's name for people; default: its recipe's"] = "",
    names_in_prompts: Annotated[
        Literal["masked", "read"], "whether the name of a creator in a prompt may move shares"
    ] = "masked",
    budget: Annotated[IndexBudget, From(IndexBudget, _BUDGET)],
    exclude_creator: Annotated[tuple[str, ...], "leave this creator's items out; repeatable"] = (),
    limit: Annotated[int | None, Option("only the first items", kind=AT_LEAST_1)] = None,
    workers: Annotated[int | None, Option("threads; default: every core", kind=AT_LEAST_1)] = None,
    thumbnails: Annotated[bool, "put small pictures of the items in, for the page of `serve --ui`"] = False,
    thumbnail_licence: Annotated[
        tuple[str, ...], "with --thumbnails: only of items under this licence; repeatable"
    ] = (),
    seed: Annotated[int, ""] = 0,
    force: Annotated[bool, "replace an existing bundle once the new one is complete"] = False,
) -> None:
    """Embed a corpus, build and tune its index, calibrate, record golden queries.

    With --student the item vectors and the calibration are the student's, and the bundle holds its items only. With
    --embeddings vectors are streamed from files; a build that was stopped goes on where it was.
    """
    if thumbnail_licence and not thumbnails:
        raise click.UsageError("--thumbnail-licence needs --thumbnails")
    shown = thumbnail_licence if thumbnails else None
    if generator and student is None:
        raise click.UsageError("--generator needs --student")
    read = "read" if names_in_prompts == "read" else ""
    given: dict[str, Any] = {
        "budget": budget, "names_in_prompts": read, "version": version, "seed": seed, "force": force
    }  # fmt: skip
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
@declared
def items_command(
    student: Annotated[Path, "whose items"],
    corpus: Annotated[Path, "corpus that holds them"],
    out: Annotated[Path, "Parquet file to write"],
) -> None:
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
@declared
def verify_command(directory: Annotated[Path, Argument()]) -> None:
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
@declared
def inspect_command(
    directory: Annotated[Path, Argument()],
    as_json: Annotated[bool, Option("print the manifest as JSON", "--json")] = False,
) -> None:
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
