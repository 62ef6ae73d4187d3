"""An answer as one page of PDF, by reportlab (extra `pdf`)."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from reportlab.graphics.shapes import Drawing, Rect
from reportlab.lib import colors
from reportlab.lib.pagesizes import A4
from reportlab.lib.units import mm
from reportlab.platypus import Image, KeepInFrame, SimpleDocTemplate, Spacer, Table, TableStyle

from attributary.plain import plain
from attributary.receipts.pdf_text import LACKING, Text, registered
from attributary.v1 import attribution_pb2 as pb

_CREATORS, _ITEMS, _CHARS = 8, 10, 90
_WIDTH, _HEIGHT, _MARGIN = A4[0], A4[1], 14 * mm
_INSIDE: Final = _WIDTH - 2 * _MARGIN
# The page's own colours, in its order.
_COLOURS: Final = (
    "#1f77b4", "#d1495b", "#2e933c", "#8456b8", "#c46a00", "#008b8b", "#a4508b", "#6b6b00", "#3d5a98", "#b23a48",
)  # fmt: skip
_OTHERS, _WITHHELD, _NOBODY = "#5f7a8a", "#c79a2b", "#8b949d"

Thumbnail = Callable[[int], bytes | None]


def pdf_bytes(
    answer: pb.Attribution, prompt: str, picture: NDArray[np.uint8] | None, thumbnail: Thumbnail
) -> bytes:
    """Return one page, A4; the same bytes for the same answer.

    `picture` is the query, uint8 RGB [H, W, 3]; `thumbnail` gives an item's WebP by its id. The first items and
    creators are shown, with the number of those that are not.
    """
    text = Text(registered())
    story: list[Any] = [text.paragraph("Where this picture comes from", 16), Spacer(1, 2 * mm)]
    said = [text.paragraph(f"Prompt: {_short(prompt, 400)}" if prompt else "Asked without a prompt.")]
    if answer.out_of_distribution:
        nobody = "It resembles nothing that this bundle knows well enough: nothing is given to anybody."
        said.append(text.paragraph(nobody, 11))
    said.append(text.paragraph(f"Bundle {answer.bundle_id}, revision {answer.revision}."))
    shown = "" if picture is None else _image(Pillow.fromarray(picture), 38 * mm)
    story += [_table([[shown, said]], (44 * mm, _INSIDE - 44 * mm)), Spacer(1, 4 * mm)]
    story += [_bar(answer), Spacer(1, 2 * mm), _creators(answer, text), Spacer(1, 4 * mm)]
    story += [_items(answer, text, thumbnail), Spacer(1, 4 * mm)]
    story.append(
        text.paragraph(
            "A share is the expected part of this picture's measured influence, as far as this bundle's calibration "
            "holds; the interval is where a creator's influence lies nine times in ten. This page is not signed: the "
            "receipt is."
        )
    )
    if text.lacking:
        story.append(text.paragraph(f"{LACKING}."))
    out = io.BytesIO()
    page = KeepInFrame(_INSIDE, _HEIGHT - 2 * _MARGIN - 12, story, mode="shrink")
    SimpleDocTemplate(
        out, pagesize=A4, leftMargin=_MARGIN, rightMargin=_MARGIN, topMargin=_MARGIN, bottomMargin=_MARGIN,
        title="Attribution", invariant=1,
    ).build([page])  # fmt: skip
    return out.getvalue()


def parts_of(answer: pb.Attribution) -> list[tuple[str, float, str]]:
    """Return what the bar shows: (name, share, colour), adding up to 1; creators first, nobody's part last."""
    held = [creator for creator in answer.creators if creator.share > 0][:_CREATORS]
    parts = [(one.creator, one.share, colour) for one, colour in zip(held, _COLOURS, strict=False)]
    rest = 1 - sum(share for _, share, _ in parts) - answer.withheld_share - answer.diffuse_share
    parts.append(("further creators", max(0.0, rest), _OTHERS))
    parts.append(("withheld (hidden or deleted)", answer.withheld_share, _WITHHELD))
    parts.append(("nobody in particular", answer.diffuse_share, _NOBODY))
    # Less than this is what rounding leaves.
    return [part for part in parts if part[1] > 5e-4]


def _bar(answer: pb.Attribution) -> Drawing:
    drawing, left = Drawing(_INSIDE, 7 * mm), 0.0
    for _, share, colour in parts_of(answer):
        width = share * _INSIDE
        drawing.add(Rect(left, 0, width, 7 * mm, fillColor=colors.HexColor(colour), strokeColor=None))
        left += width
    return drawing


def _creators(answer: pb.Attribution, text: Text) -> Table:
    between = {
        creator.creator: f"{_percent(creator.low)} to {_percent(creator.high)}"
        for creator in answer.creators
        if creator.HasField("low") and creator.HasField("high")
    }
    cell = text.cell
    rows: list[list[Any]] = [["", cell("whose it is"), cell("share", True), cell("nine times in ten", True)]]
    for name, share, colour in parts_of(answer):
        key = Drawing(8, 8)
        key.add(Rect(0, 0, 8, 8, fillColor=colors.HexColor(colour), strokeColor=None))
        rows.append([key, cell(_short(name)), cell(_percent(share), True), cell(between.get(name, ""), True)])
    return _table(rows, (6 * mm, _INSIDE - 66 * mm, 20 * mm, 40 * mm), head=True)


def _items(answer: pb.Attribution, text: Text, thumbnail: Thumbnail) -> Table:
    cell, heads = text.cell, ("", "", "nearest first", "creator", "licence", "share", "similarity")
    rows: list[list[Any]] = [[cell(head, place > 4) for place, head in enumerate(heads)]]
    for item in answer.items[:_ITEMS]:
        # Written by the bundle's builder and hashed by its manifest.
        small = thumbnail(item.id)
        rows.append(
            [
                cell(str(item.rank)),
                _image(Pillow.open(io.BytesIO(small)).convert("RGB"), 11 * mm) if small else "",
                cell(f"{_short(item.caption)} (item {item.id})"),
                cell(_short(item.creator or "(unknown)")),
                cell(_short(item.licence)),
                cell(_percent(item.share), True),
                cell(f"{item.similarity:.3f}", True),
            ]
        )
    if len(answer.items) > _ITEMS:
        rows.append(["", "", cell(f"and {len(answer.items) - _ITEMS} more"), "", "", "", ""])
    widths = (7 * mm, 14 * mm, _INSIDE - 107 * mm, 38 * mm, 20 * mm, 14 * mm, 14 * mm)
    return _table(rows, widths, head=True)


def _table(rows: list[list[Any]], widths: tuple[float, ...], *, head: bool = False) -> Table:
    commands: list[tuple[Any, ...]] = [
        ("VALIGN", (0, 0), (-1, -1), "MIDDLE" if head else "TOP"),
        ("LEFTPADDING", (0, 0), (-1, -1), 0),
        ("RIGHTPADDING", (0, 0), (-1, -1), 3),
        ("TOPPADDING", (0, 0), (-1, -1), 1),
        ("BOTTOMPADDING", (0, 0), (-1, -1), 1),
    ]
    if head:
        commands.append(("LINEBELOW", (0, 0), (-1, 0), 0.5, colors.black))
    return Table(rows, colWidths=widths, hAlign="LEFT", style=TableStyle(commands))


def _percent(share: float) -> str:
    return "< 0.1%" if 0 < share < 5e-4 else f"{100 * share:.1f}%"


def _short(text: str, most: int = _CHARS) -> str:
    text = plain(text)
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _image(picture: Pillow.Image, side: float) -> Image:
    picture.thumbnail((320, 320))
    out = io.BytesIO()
    picture.save(out, "PNG")
    out.seek(0)
    return Image(out, side, side, kind="proportional")
