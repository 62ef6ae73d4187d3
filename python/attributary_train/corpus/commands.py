"""`attributary-train corpus ...`: build a corpus, look at one."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import click
import pyarrow.parquet as pq

from attributary.plain import plain
from attributary_train.console import OUT, OUT_FOLDER, clear_errors
from attributary_train.corpus.build import build
from attributary_train.corpus.corpus import Corpus
from attributary_train.corpus.sheet import contact_sheet, group_sheet
from attributary_train.corpus.sources.base import Source
from attributary_train.corpus.sources.folder import Folder
from attributary_train.corpus.sources.registry import SOURCES, sources_named
from attributary_train.corpus.sources.webdataset import WebDataset
from attributary_train.errors import CorpusError
from attributary_train.files import reading


@click.group()
def corpus() -> None:
    """Build and inspect corpora of training images."""


@corpus.command("build")
@click.option(
    "--out", type=OUT_FOLDER, required=True, help="Directory of the corpus; may hold an older build of it."
)
@click.option(
    "--source",
    "names",
    multiple=True,
    metavar="NAME",
    help=f"A pinned public set; repeat for several. Default: all but held-out ones. "
    f"Known: {', '.join(source.name + ' (held out)' * source.held_out_default for source in SOURCES)}.",
)
@click.option("--folder", type=OUT_FOLDER, help="A folder of your own images; needs --captions.")
@click.option("--captions", type=OUT, help="CSV or Parquet with columns file and caption for --folder.")
@click.option(
    "--webdataset", metavar="PATTERN", help="WebDataset shards, e.g. 'shards/{00..09}.tar' or 'shards/*.tar'."
)
@click.option(
    "--cache",
    type=OUT_FOLDER,
    default=Path("out/cache"),
    show_default=True,
    help="Downloads and rendered images.",
)
@click.option("--limit", type=int, help="At most this many images from each source.")
@click.option("--only", type=OUT, help="Parquet with a column id: build these items alone.")
@click.option("--workers", type=int, default=2, show_default=True, help="Rendering processes.")
@clear_errors()
def build_command(
    out: Path,
    names: tuple[str, ...],
    folder: Path | None,
    captions: Path | None,
    webdataset: str | None,
    cache: Path,
    limit: int | None,
    only: Path | None,
    workers: int,
) -> None:
    """Build a corpus from pinned public sets, from a folder with captions, or from WebDataset shards."""
    started = time.monotonic()
    sources = _chosen(names, folder, captions, webdataset)
    built = build(
        out,
        sources,
        cache=cache,
        limit=limit,
        only=None if only is None else _ids(only),
        workers=workers,
        progress=True,
        say=lambda text: click.echo(f"warning: {text}; the rest goes on", err=True),
    )
    _print_facts(built)
    _print_opt_outs(built, out)
    click.echo(f"built in {time.monotonic() - started:.0f} s")


def _ids(path: Path) -> frozenset[int]:
    with reading(path, CorpusError, "holds no ids"):
        return frozenset(pq.read_table(path, columns=["id"])["id"].to_numpy().tolist())


@corpus.command("show")
@click.argument("directory", type=OUT_FOLDER)
@click.option("--creators", "creator_count", default=20, show_default=True, help="How many creators to list.")
@click.option("--sheet", type=OUT, help="Write a contact sheet of some of the images here (PNG).")
@click.option("--groups", type=OUT, help="Write a contact sheet of near-duplicate groups here (PNG).")
@clear_errors()
def show_command(directory: Path, creator_count: int, sheet: Path | None, groups: Path | None) -> None:
    """Print counts by source, creator and licence; write contact sheets."""
    opened = Corpus.open(directory)
    _print_facts(opened)
    _print_opt_outs(opened, directory)
    _print_counter("licence", Counter(item.licence_spdx for item in opened), None)
    _print_counter("creator", Counter(item.creator for item in opened), creator_count)
    for path, drawn in ((sheet, contact_sheet), (groups, group_sheet)):
        if path is None:
            continue
        try:
            drawn(opened).save(path)
        except (OSError, ValueError) as error:
            raise click.ClickException(f"the contact sheet cannot be written: {error}") from error
        click.echo(f"wrote {path}")


def _chosen(
    names: tuple[str, ...], folder: Path | None, captions: Path | None, webdataset: str | None
) -> Sequence[Source]:
    own: list[Source] = []
    if (folder is None) != (captions is None):
        raise CorpusError("captions" if captions is None else "folder", "--folder and --captions go together")
    if folder is not None and captions is not None:
        own.append(Folder(folder, captions))
    if webdataset is not None:
        own.append(WebDataset(webdataset))
    if own:
        return [*(sources_named(names) if names else ()), *own]
    return sources_named(names)


def _print_facts(opened: Corpus) -> None:
    counts, near = opened.facts["counts"], opened.facts["near_dup"]
    width = max(len(entry["name"]) for entry in opened.facts["sources"])
    for entry in opened.facts["sources"]:
        line = f"{entry['name']:<{width}}  {entry['items']:>7} items  {entry['creators']:>5} creators"
        packages = ", ".join(f"{name} {version}" for name, version in entry["packages"].items())
        click.echo(f"{line}  {packages}".rstrip())
        for reason, count in entry["skipped"].items():
            click.echo(f"{'':<{width}}  {count:>7} left out: {reason}")
        for problem in entry["problems"][:3]:
            click.echo(f"{'':<{width}}  problem: {plain(problem['where'])}: {plain(problem['reason'])}")
        if entry["problem_count"] > 3:
            click.echo(f"{'':<{width}}  and {entry['problem_count'] - 3} more problems, in corpus.json")
        for note in entry["notes"]:
            click.echo(f"{'':<{width}}  note: {plain(note)}")
    click.echo(
        f"{counts['items']} items, {counts['creators']} creators, {counts['concepts']} concepts "
        f"({counts['concepts_shared']} drawn by two creators or more), "
        f"{near['items_grouped']} items in {near['groups_shared']} near-duplicate groups"
    )


def _print_opt_outs(opened: Corpus, directory: Path) -> None:
    found = opened.facts.get("opt_out") or {}
    for entry in found.get("signals", []):
        click.echo(f"opt-out signals, {entry['kind']}: {entry['items']} items {entry['means']}")
    for reason in found.get("not_read", []):
        click.echo(f"opt-out signals not read, {reason}")
    if found.get("items_reserved") or found.get("items_conditional"):
        click.echo(
            f"{found['items_reserved']} items are reserved, {found['items_conditional']} under conditions; take them "
            f"out of a bundle with: attributary bundle opt-out BUNDLE --signals {plain(str(directory))}"
        )


def _print_counter(title: str, counter: Counter[str], most: int | None) -> None:
    click.echo(f"by {title}:")
    for name, count in counter.most_common(most):
        click.echo(f"  {count:>7}  {plain(name)}")
    left = len(counter) - len(counter.most_common(most))
    if left:
        click.echo(f"  and {left} more")
