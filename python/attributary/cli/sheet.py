"""The contact sheet: each query beside its top sources, with shares and creators."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from attributary.attribution.types import AttributedItem
from attributary.building.embed import read_picture
from attributary.building.source import read_source
from attributary.client.types import Answer
from attributary.errors import InvalidArgumentError
from attributary.pictures import decode
from attributary.plain import plain

from .show import percent

Pictures = Callable[[int], Image.Image | None]

_SOURCES = 5
_CELL = 132
_PICTURE = 112
_LABEL = 58
_HEADER = 34
_TOTALS = 250
_INK = (30, 30, 34)
_FADED = (120, 120, 128)
_BAR = (38, 110, 190)
_DIFFUSE = (190, 190, 196)
_GOOD = (24, 128, 56)


@dataclass(frozen=True, slots=True)
class Row:
    """One query on the sheet."""

    picture: bytes
    title: str
    answer: Answer
    note: str = ""  # what was expected
    right_ids: frozenset[int] = frozenset()  # items that count as expected: framed


def read_corpus_pictures(corpus: Path | None) -> Pictures:
    """Return a look-up of item pictures in a corpus directory; None finds nothing."""
    if corpus is None:
        return lambda item_id: None
    source = read_source(corpus)
    paths = dict(zip(source.table["id"].to_pylist(), source.pictures, strict=True))

    def find(item_id: int) -> Image.Image | None:
        path = paths.get(item_id)
        return None if path is None else Image.fromarray(read_picture(path, None))

    return find


def read_pictures(directory: Path | None) -> Pictures:
    """Return a look-up of `<id>.png` in a directory and below it; what is not there has no picture."""
    paths = {} if directory is None else {path.stem: path for path in directory.rglob("*.png")}

    def find(item_id: int) -> Image.Image | None:
        path = paths.get(str(item_id))
        try:
            return None if path is None else Image.fromarray(decode(path.read_bytes()))
        except (OSError, InvalidArgumentError):
            # A caption is left of a source whose picture cannot be had.
            return None

    return find


def contact_sheet(rows: list[Row], pictures: Pictures) -> Image.Image:
    """Draw the sheet; RGB."""
    height = _CELL + _LABEL
    width = _CELL * (1 + _SOURCES) + 40 + _TOTALS
    sheet = Image.new("RGB", (width, _HEADER + height * len(rows)), "white")
    draw = ImageDraw.Draw(sheet)
    for text, left in (("query", 10), ("top sources", _CELL + 50), ("creators", _CELL * 6 + 56)):
        draw.text((left, 9), text, fill=_FADED, font=_font(15))
    for number, row in enumerate(rows):
        top = _HEADER + number * height
        draw.line([(0, top), (width, top)], fill=(225, 225, 230))
        _paste(sheet, Image.fromarray(decode(row.picture)), 10, top + 10)
        _write(draw, 10, top + _CELL, [row.title, row.note], _CELL + 20, [_INK, _FADED])
        for place, item in enumerate(row.answer.items[:_SOURCES]):
            left = _CELL * (1 + place) + 50
            _source(sheet, draw, left, top, item, pictures(item.id), item.id in row.right_ids)
        _creators(draw, _CELL * (1 + _SOURCES) + 56, top + 12, row.answer)
    return sheet


def _source(
    sheet: Image.Image,
    draw: ImageDraw.ImageDraw,
    left: int,
    top: int,
    item: AttributedItem,
    picture: Image.Image | None,
    expected: bool,
) -> None:
    box = (left, top + 10, left + _PICTURE, top + 10 + _PICTURE)
    if picture is None:
        draw.rectangle(box, outline=_DIFFUSE)
        draw.text((left + 8, top + 50), "no picture", fill=_FADED, font=_font(13))
    else:
        _paste(sheet, picture, left, top + 10)
    if expected:
        draw.rectangle((box[0] - 3, box[1] - 3, box[2] + 2, box[3] + 2), outline=_GOOD, width=3)
    _write(
        draw,
        left,
        top + _CELL - 4,
        [f"{percent(item.share)}  ({item.similarity:.2f})", item.creator, item.caption],
        _CELL - 14,
        [_INK, _INK, _FADED],
    )


def _creators(draw: ImageDraw.ImageDraw, left: int, top: int, answer: Answer) -> None:
    shown = [(creator.creator, creator.share, _BAR) for creator in answer.creators[:4]]
    shown.append(("diffuse", answer.diffuse_share, _DIFFUSE))
    for name, share, colour in shown:
        draw.rectangle((left, top + 17, left + round(share * (_TOTALS - 30)), top + 24), fill=colour)
        _write(draw, left, top, [f"{percent(share)}  {name}"], _TOTALS - 16, [_INK])
        top += 31
    if answer.out_of_distribution:
        _write(draw, left, top, ["out of distribution"], _TOTALS, [(190, 90, 0)])


def _paste(sheet: Image.Image, picture: Image.Image, left: int, top: int) -> None:
    # Small generators' pictures are enlarged: a stamp cannot be compared with its sources.
    scale = _PICTURE / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    small = picture.resize(size, Image.Resampling.LANCZOS)
    sheet.paste(small, (left + (_PICTURE - small.width) // 2, top + (_PICTURE - small.height) // 2))


def _write(
    draw: ImageDraw.ImageDraw,
    left: int,
    top: int,
    lines: list[str],
    width: int,
    colours: list[tuple[int, int, int]],
) -> None:
    font = _font(13)
    for number, (raw, colour) in enumerate(zip(lines, colours, strict=True)):
        line = text = _readable(raw)
        while text and draw.textlength(text, font) > width:
            text = text[:-1]
        if text != line:
            text = text[:-1] + "…"
        draw.text((left, top + 17 * number), text, fill=colour, font=font)


# Tried in this order; Pillow's own font, the last resort, knows no accents.
_FONTS = (
    "DejaVuSans.ttf", "NotoSans-Regular.ttf", "LiberationSans-Regular.ttf", "Arial.ttf", "Arial Unicode.ttf",
)  # fmt: skip


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    for name in _FONTS:
        try:
            return ImageFont.truetype(name, size)
        except OSError:
            continue
    return ImageFont.load_default(size)


def _readable(text: str) -> str:
    """Names as the font can draw them: without accents where it knows none."""
    # One line: a line break can be neither measured nor drawn.
    text = plain(text)
    font = _font(13)
    if isinstance(font, ImageFont.FreeTypeFont) and Path(str(font.path)).name in _FONTS:
        return text
    return "".join(sign for sign in unicodedata.normalize("NFKD", text) if not unicodedata.combining(sign))
