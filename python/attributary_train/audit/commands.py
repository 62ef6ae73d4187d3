"""`attributary-train audit`: the teacher on what a bundle answered."""

from __future__ import annotations

from pathlib import Path

import click

from attributary_train.console import FILE, FOLDER, OUT_FOLDER, on_threads
from attributary_train.evaluation.options import MODEL, say, setting


@click.command("audit")
@click.option("--bundle", "bundle_dir", type=FOLDER, required=True, help="What production serves.")
@MODEL
@click.option("--queries", "log", type=FILE, required=True, help="Parquet log: id, image or latent, prompt.")
@click.option("--limit", type=int, help="Audit so many queries, chosen at random; default: all.")
@click.option("--id", "ids", multiple=True, help="Audit this query; repeat.")
@click.option("--labels", type=FOLDER, help="Take the teacher's settings, factors and baseline from here.")
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="NAME=VALUE",
    help="A setting of AbU+; repeat. Instead of --labels.",
)
@click.option("--candidates", default=32, show_default=True, help="Items of an answer that are checked.")
@click.option("--outside", default=96, show_default=True, help="Random items beside them.")
@click.option("--seed", default=0, show_default=True)
@click.option("--out", type=OUT_FOLDER, required=True, help="Folder of the audit; goes on where it stopped.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
@on_threads
def audit(
    bundle_dir: Path,
    subject_dir: Path,
    corpus_dir: Path,
    cache: Path,
    log: Path,
    limit: int | None,
    ids: tuple[str, ...],
    labels: Path | None,
    settings: tuple[str, ...],
    candidates: int,
    outside: int,
    seed: int,
    out: Path,
    as_json: bool,
) -> None:
    """Ask the teacher about the items that a bundle named for logged queries, and how well the two agree."""
    from attributary_train.audit.asking import AuditSettings
    from attributary_train.audit.whole import Audited, run_audit
    from attributary_train.evaluation.strict_json import strict_json

    if labels and settings:
        raise click.UsageError("--set: the labels say how the teacher is set; give one of the two")
    chosen = dict(setting(entry) for entry in settings)
    audited = Audited(bundle_dir, subject_dir, corpus_dir, cache, log, limit, ids, labels, chosen)
    content = run_audit(audited, AuditSettings(candidates, outside, seed=seed), out, say)
    if as_json:
        click.echo(strict_json(content))
        return
    found = content["results"]
    click.echo(
        f"{found['queries']} queries, {found['failed']} failed, {found['out_of_distribution']} out of distribution; "
        f"{found['seconds a query']} s a query, {found['cpu seconds a query']} s of a core"
    )
    click.echo(found["line"])
    click.echo(f"drift: {', '.join(found['drift']) or 'none'}")
