"""Contact sheets: a look at a corpus, and at what its near-duplicate groups hold."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from PIL import Image, ImageDraw

from attributary_train.corpus.corpus import Corpus
from attributary_train.corpus.item import Item
from attributary_train.errors import CorpusError

_THUMB = 72
_GAP = 4
_LABEL = 12
_PAPER = (226, 226, 226)


def contact_sheet(corpus: Corpus, count: int = 160, columns: int = 16) -> Image.Image:
    """Draw `count` items spread evenly over the corpus, each above the first letters of its caption."""
    if not len(corpus):
        raise CorpusError("corpus", "holds no items")
    step = max(len(corpus) / count, 1.0)
    items = [corpus[int(row * step)] for row in range(min(count, len(corpus)))]
    return _draw(corpus, [items[start : start + columns] for start in range(0, len(items), columns)])


def group_sheet(corpus: Corpus, rows: int = 40, columns: int = 16) -> Image.Image:
    """Draw near-duplicate groups, one a row: the largest ones, then others spread over the rest."""
    members: defaultdict[int, list[Item]] = defaultdict(list)
    for item in corpus:
        members[item.near_dup_group].append(item)
    groups = sorted((group for group in members.values() if len(group) > 1), key=len, reverse=True)
    if not groups:
        raise CorpusError("corpus", "holds no near-duplicate groups")
    largest, rest = groups[: rows // 2], groups[rows // 2 :]
    step = max(len(rest) / (rows - rows // 2), 1.0)
    spread = [rest[int(row * step)] for row in range(min(rows - rows // 2, len(rest)))]
    return _draw(corpus, [_spread(group, columns) for group in [*largest, *spread]])


def _spread(group: list[Item], count: int) -> list[Item]:
    step = max(len(group) / count, 1.0)
    return [group[int(place * step)] for place in range(min(count, len(group)))]


def _draw(corpus: Corpus, rows: Sequence[Sequence[Item]]) -> Image.Image:
    cell_width, cell_height = _THUMB + _GAP, _THUMB + _LABEL + _GAP
    width = max(len(row) for row in rows)
    sheet = Image.new("RGB", (width * cell_width + _GAP, len(rows) * cell_height + _GAP), _PAPER)
    pen = ImageDraw.Draw(sheet)
    for y, row in enumerate(rows):
        for x, item in enumerate(row):
            corner = (_GAP + x * cell_width, _GAP + y * cell_height)
            thumb = corpus.image(item.id).resize((_THUMB, _THUMB), Image.Resampling.LANCZOS)
            sheet.paste(thumb, corner)
            # Pillow's own font has no glyphs beyond Latin-1.
            label = item.caption.encode("latin-1", "replace").decode("latin-1")[:12]
            pen.text((corner[0], corner[1] + _THUMB), label, fill="black")
    return sheet
