"""A statement in words and as files for people: how shares were found, a table for spreadsheets, a page."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined

from attributary.bundle.manifest import Manifest
from attributary.plain import counted, csv_file, plain

from .payout import Line, Payout

# Levels of what was measured; the outer ones go without saying.
_WORDS: Final = {
    "held_out": "",
    "skill": "",
    "image": "without a prompt,",
    "image_and_prompt": "with the prompt,",
}
HEADS: Final = ("creator", "share of pool", "interval", "amount", "from before", "paid now", "status")
CSV_COLUMNS: Final = (
    "creator", "creator_ids", "generations", "part_of_pool", "currency", "amount", "amount_low", "amount_high",
    "brought_forward", "due", "paid", "carried_forward", "status",
)  # fmt: skip


def method(statement: Payout, manifest: Manifest | None) -> list[str]:
    """Say in plain words how the shares were found and how well that was measured."""
    summary = statement.summary
    method_lines = [
        f"Each of {summary['answered']:,} generated pictures counts as one. A creator's part of the pool is the sum of "
        "the creator's shares in them, divided by their number. A picture that resembles nothing known pays nobody. "
        "What belongs to nobody, or was withheld, raises nobody's part.",
        "Amounts are divided exactly, to the smallest unit of the currency; units that are left over go to the largest "
        "remainders.",
        *(
            [
                f"{counted(statement.repeated, 'picture')} of them the same as another, to the byte: each was counted."
            ]
            if statement.repeated
            else []
        ),
        *_unanswered(summary),
    ]
    if manifest is None:
        return [
            *method_lines,
            "The bundle was not at hand, so this page cannot say how its shares were found or how good they are.",
        ]
    method_lines.append(f"How shares were found: {manifest.calibration.method}.")
    if not manifest.notes.get("calibration_labels_digest"):
        method_lines.append(
            "They were not fitted to measured influence: they say how much a picture resembles a creator's, not how "
            "much it owes to them."
        )
    try:
        skills = list(_skills(json.loads(manifest.notes.get("measured", "")), ""))
    except ValueError:
        skills = []
    if skills:
        method_lines.append(
            "Skill, measured on pictures that were not used in fitting, with 95% intervals; 0 is what a constant "
            f"reaches, 1 is perfect: {'; '.join(skills)}."
        )
    else:
        method_lines.append("No skill of these shares against a constant was measured.")
    return method_lines


def _unanswered(summary: Mapping[str, Any]) -> list[str]:
    """What of the log counts for nobody, since nothing was answered for it."""
    errors, skipped = (sum(dict(summary.get(name) or {}).values()) for name in ("errors", "skipped"))
    if not errors and not skipped:
        return []
    found = [f"{counted(errors, 'picture')} without an answer"] if errors else []
    found += [f"{counted(skipped, 'file')} or members of the log that were skipped"] if skipped else []
    return [f"Counted for nobody: {' and '.join(found)}. The run's summary.json has the reasons."]


def intervals_line(statement: Payout) -> str:
    """Say what intervals there are."""
    if any(line.interval is not None for line in statement.lines):
        return "Intervals say within what the amount lies if the shares are as uncertain as was measured."
    return "No interval is known for the shares of this run."


def csv_bytes(statement: Payout) -> bytes:
    """Return the statement as CSV; no text in it is a spreadsheet's formula."""
    currency = statement.terms.currency
    cells: list[Sequence[object]] = []
    for line in statement.lines:
        low, high = line.interval or ("", "")
        cells.append((
            plain(line.creator), " ".join(line.ids), line.generations, f"{line.part:.9f}", currency,
            line.amount, low, high, line.brought, line.due, line.paid, line.carried, line.status,
        ))  # fmt: skip
    for what, amount in statement.rest:
        cells.append(["", "", "", "", currency, amount, *[""] * 6, f"unattributed: {what}"])
    return csv_file(CSV_COLUMNS, cells)


def rows(statement: Payout) -> Iterator[tuple[str, ...]]:
    """Yield the cells of HEADS for each creator."""
    for line in statement.lines:
        ids = f" ({', '.join(line.ids)})" if line.ids else ""
        yield (
            plain(line.creator + ids),
            f"{line.part:.3%}",
            "not known" if line.interval is None else f"{line.interval[0]:,} to {line.interval[1]:,}",
            f"{line.amount:,}",
            f"{line.brought:,}" if line.brought else "",
            f"{line.paid:,}" if line.paid else "",
            _status(line),
        )


def _status(line: Line) -> str:
    if line.status != "excluded" or not line.brought:
        return line.status
    return f"excluded; {line.brought:,} from before {'forfeited' if line.forfeits else 'carried forward'}"


def totals(statement: Payout) -> list[tuple[str, Decimal]]:
    """What became of the pool, and of what was brought forward, line by line."""
    zero = statement.terms.pool * 0
    excluded = [line for line in statement.lines if line.status == "excluded"]
    brought = sum((line.brought for line in statement.lines), zero)
    owed = sum((line.carried for line in excluded), zero)
    forfeited = sum((line.brought for line in excluded), zero) - owed
    found: list[tuple[str, Decimal]] = [("pool", statement.terms.pool)]
    found += [("brought forward from the statement before", brought)] if brought else []
    found += [
        ("paid now", statement.total("paid")),
        ("carried forward: below the minimum", statement.total("carried forward")),
        *([("carried forward: owed before, excluded now", owed)] if owed else []),
        *([("forfeited: owed before to excluded creators", forfeited)] if forfeited else []),
        ("excluded creators, not paid", sum((line.amount for line in excluded), zero)),
        ("creators without a name, nobody to pay", statement.total("no payee")),
    ]
    return found + [(f"unattributed: {what}", amount) for what, amount in statement.rest]


def page(statement: Payout, title: str, method_lines: Sequence[str]) -> str:
    """Return the whole statement as one HTML page: no script, nothing fetched, everything from outside escaped."""
    return _TEMPLATES.get_template("payout.html.jinja").render(
        statement=statement,
        title=title,
        heads=HEADS,
        rows=rows(statement),
        totals=totals(statement),
        words=[*method_lines, intervals_line(statement)],
    )


def _skills(value: object, path: str) -> Iterator[str]:
    """Each skill in what was measured, with its interval, in words."""
    if not isinstance(value, dict):
        return
    if all(isinstance(value.get(name), int | float) for name in ("skill", "low", "high")):
        yield f"{path} {value['skill']:.2f} [{value['low']:.2f}, {value['high']:.2f}]"
        return
    for name, inner in value.items():
        words = _WORDS.get(name, name.replace("_", " "))
        yield from _skills(inner, f"{path} {words}".strip())


_TEMPLATES = Environment(
    loader=PackageLoader("attributary.receipts", ""), autoescape=True, undefined=StrictUndefined
)
_TEMPLATES.filters |= {"plain": plain, "grouped": lambda amount: f"{amount:,}"}
