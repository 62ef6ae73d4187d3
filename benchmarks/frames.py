"""Pictures as people pass them on: framed, between bars, in screenshots, with words below, cut."""

from __future__ import annotations

import io
from collections.abc import Callable

from PIL import Image, ImageDraw

Change = Callable[[Image.Image], Image.Image]
WHITE, BLACK, LIGHT, GREY, WINDOW = (255,) * 3, (0,) * 3, (230,) * 3, (128,) * 3, (32, 33, 36)


def margins(colour: tuple[int, ...], left: float, top: float, right: float, bottom: float) -> Change:
    """Margins in parts of the picture's sides."""

    def change(image: Image.Image) -> Image.Image:
        width, height = image.size
        size = round(width * (1 + left + right)), round(height * (1 + top + bottom))
        ground = Image.new("RGB", size, colour)
        ground.paste(image, (round(width * left), round(height * top)))
        return ground

    return change


def border(part: float, colour: tuple[int, ...]) -> Change:
    return margins(colour, part, part, part, part)


def rounded(part: float, beyond: float) -> Change:
    """Round corners over white, as of a picture with transparent ones, and a white margin."""

    def change(image: Image.Image) -> Image.Image:
        mask = Image.new("L", (image.width * 4, image.height * 4), 0)
        corner = (0, 0, mask.width - 1, mask.height - 1)
        ImageDraw.Draw(mask).rounded_rectangle(corner, part * mask.width, fill=255)
        ground = Image.new("RGB", image.size, WHITE)
        ground.paste(image, mask=mask.resize(image.size, Image.Resampling.LANCZOS))
        return border(beyond, WHITE)(ground)

    return change


def words(part: float, colour: tuple[int, ...]) -> Change:
    """A strip below with a line of words."""

    def change(image: Image.Image) -> Image.Image:
        wider = margins(colour, 0, 0, 0, part)(image)
        size = max(8, (wider.height - image.height) // 3)
        ink = WHITE if colour == BLACK else WINDOW
        ImageDraw.Draw(wider).text((8, image.height + size), "a caption of some words", ink, font_size=size)
        return wider

    return change


def cut(part: float) -> Change:
    """Without half of `part` at each side."""

    def change(image: Image.Image) -> Image.Image:
        x, y = (round(part * side / 2) for side in image.size)
        return image.crop((x, y, image.width - x, image.height - y))

    return change


FRAMES: dict[str, Change] = {
    "border 10%, light": border(0.1, LIGHT),
    "border 10%, white": border(0.1, WHITE),
    "border 10%, black": border(0.1, BLACK),
    "border 3%, grey": border(0.03, GREY),
    "border 25%, white": border(0.25, WHITE),
    "bars above and below, black": margins(BLACK, 0, 0.28, 0, 0.28),
    "bars of 4:3, black": margins(BLACK, 0.3, 0.1, 0.3, 0.1),
    "screenshot, white": margins(WHITE, 0.15, 0.4, 0.2, 0.15),
    "screenshot, dark": margins(WINDOW, 0.4, 0.1, 0.2, 0.35),
    "corners of 10% rounded": rounded(0.1, 0),
    "corners of 20% rounded, white margin of 10%": rounded(0.2, 0.1),
    "words below, white": words(0.2, WHITE),
    "words below, black": words(0.15, BLACK),
    "3% cut": cut(0.03),
    "5% cut": cut(0.05),
    "10% cut": cut(0.1),
    "15% cut": cut(0.15),
}


def framed(data: bytes, change: Change, quality: int = 90) -> bytes:
    """A changed picture as JPEG, 4:2:0."""
    with Image.open(io.BytesIO(data)) as image:
        picture = change(image.convert("RGB"))
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=quality, subsampling=2)
    return out.getvalue()
