"""A look at the answers: exemplar, the subject's picture before and after tuning, and the first items found."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from attributary_train.customization.gallery import Embedded, Gallery
from attributary_train.customization.shards import Pictures
from attributary_train.errors import CustomizationError

_SIDE, _GAP, _LABEL, _LEFT = 72, 4, 14, 4
_FOUND = 6
_RIGHT, _PAPER = (39, 134, 74), (255, 255, 255)


def draw_sheet(
    gallery: Gallery, embedded: Embedded, rows: int, licences: frozenset[str] = frozenset()
) -> Image.Image:
    """One test exemplar a row, spread evenly over them: objects and styles, seen and unseen.

    Columns: up to two of the exemplar's items, untuned, tuned, and the first items found, the exemplar's own framed in
    green. With `licences`, items under others are left blank.
    """
    tested = [at for at, exemplar in enumerate(gallery.exemplars) if exemplar.split == "test"]
    if not tested:
        raise CustomizationError("exemplars", "there are none of the test split to show")
    chosen = [tested[at] for at in np.unique(np.linspace(0, len(tested) - 1, rows).round().astype(int))]
    columns = 4 + _FOUND
    width, height = _LEFT + columns * (_SIDE + _GAP), len(chosen) * (_SIDE + _LABEL + _GAP) + _LABEL
    canvas = Image.new("RGB", (width, height), _PAPER)
    pen = ImageDraw.Draw(canvas)
    for column, title in ((0, "exemplar"), (2, "untuned"), (3, "tuned"), (4, "found")):
        pen.text((_LEFT + column * (_SIDE + _GAP), 1), title, fill="black")
    for line, exemplar in enumerate(chosen):
        _row(canvas, pen, gallery, embedded, exemplar, _LABEL + line * (_SIDE + _LABEL + _GAP), licences)
    return canvas


def _row(
    canvas: Image.Image,
    pen: ImageDraw.ImageDraw,
    gallery: Gallery,
    embedded: Embedded,
    exemplar: int,
    top: int,
    licences: frozenset[str],
) -> None:
    query = int(np.flatnonzero(gallery.whose == exemplar)[0])
    own = gallery.exemplar_rows[exemplar]
    pool = np.concatenate([own, gallery.distractor_rows[gallery.rivals(exemplar)]])
    order = np.argsort(-(embedded.items[pool] @ embedded.queries[query]), kind="stable")
    found = pool[order[:_FOUND]]

    def put(column: int, picture: Pictures, frame: bool = False) -> None:
        corner = (_LEFT + column * (_SIDE + _GAP), top)
        canvas.paste(Image.fromarray(picture).resize((_SIDE, _SIDE), Image.Resampling.BICUBIC), corner)
        if frame:
            pen.rectangle((corner[0] - 1, top - 1, corner[0] + _SIDE, top + _SIDE), outline=_RIGHT, width=3)

    def item(column: int, row: int, frame: bool = False) -> None:
        if not licences or gallery.licences[row] in licences:
            put(column, gallery.item_pictures[row], frame)

    for column, row in enumerate(own[:2]):
        item(column, int(row))
    put(2, gallery.untuned[query])
    put(3, gallery.pictures[query])
    for column, row in enumerate(found, start=4):
        item(column, int(row), bool(np.isin(row, own)))
    one = gallery.exemplars[exemplar]
    words = f"{one.kind}, {'seen' if one.seen else 'unseen'}: {one.label[:40]} - {gallery.prompts[query]}"
    # Pillow's own font has no glyphs beyond Latin-1.
    pen.text((_LEFT, top + _SIDE + 1), words.encode("latin-1", "replace").decode("latin-1"), fill="black")
