"""`attributary payout`: a statement of who is paid what of a pool, from a finished run."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Annotated

import click
from rich.cells import cell_len, set_cell_size

from attributary.bundle.items import ITEMS, ItemTable
from attributary.bundle.manifest import Manifest
from attributary.delta.selection import letters_of
from attributary.errors import InvalidArgumentError, needs
from attributary.files import write_file
from attributary.plain import counted, json_line, plain
from attributary.receipts import money
from attributary.receipts.before import GENERATIONS, STATEMENT, check_place, read
from attributary.receipts.payout import Payout, Terms, as_json, payout
from attributary.receipts.payout_words import csv_bytes, method, page, totals

from .options import Argument, Option, declared

_SHOWN = 10
_NAME, _WORDS = 40, 54


@click.command("payout")
@declared
def payout_command(
    run: Annotated[Path, Argument()],
    pool: Annotated[str, "what is to be divided, like 1000 or 1000.50"],
    currency: Annotated[str, "code of ISO 4217, like EUR"],
    minimum: Annotated[str, "whoever is due less is paid by a later statement"] = "0",
    exclude_creator: Annotated[tuple[str, ...], "is not paid; nobody else gets more for it; repeatable"] = (),
    forfeit: Annotated[
        tuple[str, ...], "an excluded creator who is no longer owed what was carried forward; repeatable"
    ] = (),
    brought_forward: Annotated[tuple[Path, ...], "payout.json of the statement before"] = (),
    bundle: Annotated[Path | None, "the run's bundle: how shares were found, how good they are"] = None,
    title: Annotated[str | None, "of the page; default: the run's name"] = None,
    out: Annotated[Path | None, "default: RUN/payout; payout.csv, .json, .html and .pdf go there"] = None,
    pdf: Annotated[bool, "also write a PDF; needs attributary[pdf]"] = False,
    font: Annotated[Path | None, "TrueType file for the PDF, for names in other scripts"] = None,
    as_json_: Annotated[bool, Option("print payout.json", "--json")] = False,
) -> None:
    """Divide a pool of money by the creators' totals of a finished RUN of `attributary score`.

    What belongs to nobody in particular, was withheld, or was made of nothing known stays in the pool.
    """
    digits = money.digits_of(currency)
    manifest, ids = (None, {}) if bundle is None else _of_bundle(bundle)
    if len(brought_forward) > 1:
        raise InvalidArgumentError(
            "brought_forward", "must be one statement, the last: it has what it brought forward itself"
        )
    before = read(brought_forward[0], currency) if brought_forward else None
    terms = Terms(
        pool=money.amount(pool, digits, "pool", least=Decimal(1).scaleb(-digits)),
        currency=currency,
        minimum=money.amount(minimum, digits, "minimum"),
        excluded=frozenset(exclude_creator),
        forfeited=frozenset(forfeit),
        brought=before.owed if before else {},
        before=before,
        ids=ids,
    )
    statement = payout(run, terms)
    if manifest is not None and manifest.bundle_id != statement.summary["bundle_id"]:
        raise InvalidArgumentError(
            "bundle", f"is {manifest.bundle_id}, the run was answered by {statement.summary['bundle_id']}"
        )
    method_lines = method(statement, manifest)
    name = title or f"Payout of {run.resolve().name}"
    files = {
        GENERATIONS: statement.generations,
        "payout.csv": csv_bytes(statement),
        STATEMENT: json_line(as_json(statement, method_lines)).encode() + b"\n",
        "payout.html": page(statement, name, method_lines).encode("utf-8", "backslashreplace"),
    }
    if pdf:
        files["payout.pdf"] = _pdf(statement, name, method_lines, font)
    folder = out or run / "payout"
    check_place(folder / STATEMENT, statement.summary["run"], currency, files[STATEMENT])
    if before is not None:
        before.take(statement.summary["run"])
    for file, data in files.items():
        write_file(folder / file, data)
    if statement.repeated:
        said = counted(statement.repeated, "picture")
        click.echo(f"note: {said} of the run the same as another, to the byte: each was counted", err=True)
    for one in statement.lines:
        if before is not None and one.creator in before.excluded and one.status != "excluded":
            said = f"note: {one.creator} was excluded by the statement before, and is not by this one"
            click.echo(plain(said), err=True)
    excluded = {letters_of(one.creator): one.creator for one in statement.lines if one.status == "excluded"}
    for one in statement.lines:
        if one.status in ("paid", "carried forward") and (other := excluded.get(letters_of(one.creator))):
            said = f"note: {one.creator} is not excluded, and may be the excluded {other}"
            click.echo(plain(said), err=True)
    for left in statement.left:
        owed = sum(left.owed.values(), Decimal(0))
        note = (
            f"note: {left.path} carried {owed:,} {currency} forward, and no statement has brought it forward"
        )
        click.echo(plain(note), err=True)
    if as_json_:
        click.echo(files[STATEMENT].decode(), nl=False)
        return
    for line in _lines(statement):
        click.echo(plain(line))
    click.echo(plain(f"wrote {', '.join(files)} to {folder}"))


def _lines(statement: Payout) -> list[str]:
    """The largest amounts and what became of the pool, in 80 columns."""
    currency = statement.terms.currency
    width = max(len(f"{amount:,}") for _, amount in totals(statement))
    shown = [
        f"{_fit(plain(line.creator), _NAME)} "
        f"{line.amount if line.status == 'excluded' else line.due:>{width},} {currency}  {line.status}"
        for line in statement.lines[:_SHOWN]
    ]
    more = len(statement.lines) - len(shown)
    shown += [f"and {more:,} more creators"] if more else []
    sums = [f"{_fit(what, _WORDS)} {amount:>{width},} {currency}" for what, amount in totals(statement)]
    return [*shown, "", *sums]


def _fit(text: str, cells: int) -> str:
    """A text in so many cells of a terminal."""
    return set_cell_size(text, cells) if cell_len(text) <= cells else set_cell_size(text, cells - 1) + "…"


def _of_bundle(bundle: Path) -> tuple[Manifest, dict[str, tuple[str, ...]]]:
    """What a bundle says of itself, and who its creators are as far as it knows."""
    manifest, items = Manifest.read(bundle), ItemTable.read(bundle / ITEMS)
    return manifest, {name: ids for name in items.creator_names if (ids := items.ids_of(name))}


def _pdf(statement: Payout, title: str, method_lines: list[str], font: Path | None) -> bytes:
    with needs("pdf"):
        from attributary.receipts.payout_pdf import pdf_bytes
    return pdf_bytes(statement, title, method_lines, font)
