"""A statement as PDF, by reportlab (extra `pdf`)."""

from __future__ import annotations

import io
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any, Final

import reportlab
from reportlab.lib import colors
from reportlab.lib.enums import TA_RIGHT
from reportlab.lib.pagesizes import A4
from reportlab.lib.styles import ParagraphStyle
from reportlab.lib.units import mm
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.ttfonts import TTFError, TTFont
from reportlab.platypus import Paragraph, SimpleDocTemplate, Spacer, Table, TableStyle

from attributary.errors import InvalidArgumentError
from attributary.plain import plain

from .payout import Payout
from .payout_words import HEADS, intervals_line, rows, totals

_FONT: Final = "statement"
_WIDTHS: Final = tuple(width * mm for width in (46, 17, 31, 22, 18, 20, 26))
# A page is laid out at once; a longer list is for a spreadsheet.
MAX_LINES: Final = 20_000


def pdf_bytes(statement: Payout, title: str, told: Sequence[str], font: Path | None = None) -> bytes:
    """Return the statement as PDF, A4; the same bytes for the same statement.

    `font` is a TrueType file for names in other scripts than the Latin one. Signs that the font lacks are written as
    escapes, and the page says so. Raises InvalidArgumentError for a font that cannot be used, a list that is too long.
    """
    if len(statement.lines) > MAX_LINES:
        raise InvalidArgumentError(
            "pdf", f"holds at most {MAX_LINES} creators, the run has {len(statement.lines)}"
        )
    text = _Text(_registered(font))
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
        Table(table, colWidths=_WIDTHS, repeatRows=1, hAlign="LEFT", style=_style(True)), Spacer(1, 5 * mm),
        *(text.paragraph(line) for line in (*told, intervals_line(statement))),
    ]  # fmt: skip
    if text.lacking:
        story.append(
            text.paragraph(
                "Signs that the font of this page lacks are written as codes; the CSV has them as they are."
            )
        )
    out = io.BytesIO()
    SimpleDocTemplate(
        out, pagesize=A4, leftMargin=15 * mm, rightMargin=15 * mm, topMargin=15 * mm, bottomMargin=15 * mm,
        title=plain(title), invariant=1,
    ).build(story)  # fmt: skip
    return out.getvalue()


class _Text:
    """Paragraphs in one font; nothing that a name holds is markup."""

    def __init__(self, font: Any) -> None:
        self._glyphs = font.face.charToGlyph
        self.lacking = False

    def paragraph(self, text: str, size: float = 9) -> Any:
        style = ParagraphStyle(
            "text", fontName=_FONT, fontSize=size, leading=size * 1.35, spaceAfter=size * 0.4
        )
        return Paragraph(escape(self._shown(text)), style)

    def cell(self, text: str, number: bool = False) -> Any:
        style = ParagraphStyle("cell", fontName=_FONT, fontSize=7.5, leading=9.5, splitLongWords=1)
        if number:
            style.alignment = TA_RIGHT
        return Paragraph(escape(self._shown(text)), style)

    def _shown(self, text: str) -> str:
        signs = [
            sign if ord(sign) in self._glyphs else sign.encode("unicode_escape").decode()
            for sign in plain(text)
        ]
        shown = "".join(signs)
        self.lacking |= shown != plain(text)
        return shown


def _registered(path: Path | None) -> Any:
    place = path or Path(reportlab.__file__).parent / "fonts" / "Vera.ttf"
    try:
        font = TTFont(_FONT, str(place))
    except (TTFError, OSError, ValueError) as error:
        raise InvalidArgumentError("font", f"{place} cannot be used: {error}") from None
    pdfmetrics.registerFont(font)
    return font


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
