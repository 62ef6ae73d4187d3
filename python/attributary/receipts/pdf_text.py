"""Text of others in a PDF, by reportlab (extra `pdf`): one font, nothing is markup, what the font lacks is said."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any, Final

import reportlab
from reportlab.lib.enums import TA_RIGHT
from reportlab.lib.styles import ParagraphStyle
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.ttfonts import TTFError, TTFont
from reportlab.platypus import Paragraph

from attributary.errors import InvalidArgumentError
from attributary.plain import plain

_FONT: Final = "plain"
LACKING: Final = "Signs that the font of this page lacks are written as codes"


class Text:
    """Paragraphs in one font; nothing that a name holds is markup."""

    def __init__(self, font: Any) -> None:
        self._glyphs = font.face.charToGlyph
        self.lacking = False

    def paragraph(self, text: str, size: float = 9) -> Any:
        """A paragraph; `size` in points."""
        style = ParagraphStyle(
            "text", fontName=_FONT, fontSize=size, leading=size * 1.35, spaceAfter=size * 0.4
        )
        return Paragraph(escape(self._shown(text)), style)

    def cell(self, text: str, number: bool = False) -> Any:
        """A cell of a table; numbers stand on the right."""
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


def registered(path: Path | None = None) -> Any:
    """Return a TrueType font, reportlab's own if none is named; raises InvalidArgumentError."""
    place = path or Path(reportlab.__file__).parent / "fonts" / "Vera.ttf"
    try:
        font = TTFont(_FONT, str(place))
    except (TTFError, OSError, ValueError) as error:
        raise InvalidArgumentError("font", f"{place} cannot be used: {error}") from None
    pdfmetrics.registerFont(font)
    return font
