"""A statement in words and as files for people: how shares were found, a table for spreadsheets, a page."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from html import escape
from typing import Any, Final

from attributary.bundle.manifest import Manifest
from attributary.plain import cell, counted, plain

from .payout import Line, Payout

_STYLE: Final = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1e1e22; max-width: 860px; margin: 2em auto }
h1 { font-size: 1.6em; margin-bottom: 0 } h2 { margin-top: 2em; font-size: 1.2em }
table { border-collapse: collapse; width: 100% }
td, th { padding: 2px 14px 2px 0; text-align: left; vertical-align: top }
td.n, th.n { text-align: right; white-space: nowrap } .faded { color: #6c6c76; font-size: 0.9em }
thead { border-bottom: 1px solid #1e1e22 } tfoot { border-top: 1px solid #1e1e22 } td { overflow-wrap: anywhere }
@media print { body { max-width: none; margin: 0 } thead { display: table-header-group } tr { break-inside: avoid } }
"""
_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'"
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
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    currency = statement.terms.currency
    for line in statement.lines:
        low, high = line.interval or ("", "")
        values = (
            plain(line.creator), " ".join(line.ids), line.generations, f"{line.part:.9f}", currency,
            line.amount, low, high, line.brought, line.due, line.paid, line.carried, line.status,
        )  # fmt: skip
        writer.writerow([cell(value) for value in values])
    for what, amount in statement.rest:
        writer.writerow(["", "", "", "", currency, amount, *[""] * 6, f"unattributed: {what}"])
    return text.getvalue().encode("utf-8", "backslashreplace")


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
    terms, summary = statement.terms, statement.summary
    numbers = range(1, 6)
    heads = "".join(f"<th{_n(place in numbers)}>{_e(head)}</th>" for place, head in enumerate(HEADS))
    body = "".join(
        "<tr>"
        + "".join(f"<td{_n(place in numbers)}>{_e(text)}</td>" for place, text in enumerate(row))
        + "</tr>"
        for row in rows(statement)
    )
    sums = "".join(
        f"<tr><td>{_e(what)}</td><td class='n'>{amount:,}</td></tr>" for what, amount in totals(statement)
    )
    words = "".join(f"<p>{_e(plain(line))}</p>" for line in (*method_lines, intervals_line(statement)))
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f"<title>{_e(plain(title))}</title><style>{_STYLE}</style></head><body><h1>{_e(plain(title))}</h1>"
        f"<p class='faded'>run {_e(summary['run'])}, bundle {_e(summary['bundle_id'])}; amounts in "
        f"{_e(terms.currency)}, minimum payout {terms.minimum:,}</p><h2>The pool</h2><table>{sums}</table>"
        f"<h2>Creators</h2><table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>"
        f"<h2>How this was found</h2>{words}</body></html>\n"
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


def _n(number: bool) -> str:
    return " class='n'" if number else ""


def _e(text: object) -> str:
    return escape(str(text))
