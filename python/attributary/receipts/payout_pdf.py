"""A statement as PDF, by reportlab (extra `pdf`)."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from reportlab.lib import colors
from reportlab.lib.pagesizes import A4
from reportlab.lib.units import mm
from reportlab.platypus import SimpleDocTemplate, Spacer, Table, TableStyle

from attributary.errors import InvalidArgumentError
from attributary.plain import plain

from .payout import Payout
from .payout_words import HEADS, intervals_line, rows, totals
from .pdf_text import LACKING, Text, registered

_WIDTHS: Final = tuple(width * mm for width in (46, 17, 31, 22, 18, 20, 26))
# A page is laid out at once; a longer list is for a spreadsheet.
MAX_LINES: Final = 20_000


def pdf_bytes(statement: Payout, title: str, method_lines: Sequence[str], font: Path | None = None) -> bytes:
    """Return the statement as PDF, A4; the same bytes for the same statement.

    `font` is a TrueType file for names in other scripts than the Latin one. Signs that the font lacks are written as
    escapes, and the page says so. Raises InvalidArgumentError for a font that cannot be used, a list that is too long.
    """
    if len(statement.lines) > MAX_LINES:
        raise InvalidArgumentError(
            "pdf", f"holds at most {MAX_LINES} creators, the run has {len(statement.lines)}"
        )
    text = Text(registered(font))
    numbers = range(1, 6)
    table = [[text.cell(head, place in numbers) for place, head in enumerate(HEADS)]]
    table += [
        [text.cell(value, place in numbers) for place, value in enumerate(row)] for row in rows(statement)
    ]
    terms, summary = statement.terms, statement.summary
    sums = [[text.cell(what), text.cell(f"{amount:,}", True)] for what, amount in totals(statement)]
    facts = (
        f"run {summary['run']}, bundle {summary['bundle_id']}; amounts in {terms.currency}, minimum payout "
        f"{terms.minimum:,}"
    )
    story = [
        text.paragraph(title, 16), Spacer(1, 2 * mm), text.paragraph(facts), Spacer(1, 5 * mm),
        Table(sums, colWidths=[110 * mm, 40 * mm], hAlign="LEFT", style=_style(False)), Spacer(1, 5 * mm),
        # A name may be longer than a page.
        Table(table, colWidths=_WIDTHS, repeatRows=1, hAlign="LEFT", style=_style(True), splitInRow=1),
        Spacer(1, 5 * mm),
        *(text.paragraph(line) for line in (*method_lines, intervals_line(statement))),
    ]  # fmt: skip
    if text.lacking:
        story.append(text.paragraph(f"{LACKING}; the CSV has them as they are."))
    out = io.BytesIO()
    SimpleDocTemplate(
        out, pagesize=A4, leftMargin=15 * mm, rightMargin=15 * mm, topMargin=15 * mm, bottomMargin=15 * mm,
        title=plain(title), invariant=1,
    ).build(story)  # fmt: skip
    return out.getvalue()


def _style(head: bool) -> TableStyle:
    commands: list[tuple[Any, ...]] = [
        ("VALIGN", (0, 0), (-1, -1), "TOP"),
        ("LEFTPADDING", (0, 0), (-1, -1), 0),
        ("TOPPADDING", (0, 0), (-1, -1), 1),
        ("BOTTOMPADDING", (0, 0), (-1, -1), 1),
    ]
    if head:
        commands.append(("LINEBELOW", (0, 0), (-1, 0), 0.5, colors.black))
    return TableStyle(commands)
