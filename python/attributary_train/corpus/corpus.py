"""A corpus on disk: `items.parquet`, `images/`, `originals/` and `corpus.json` in one directory."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from attributary.errors import InvalidArgumentError
from attributary.pictures import decode, prepare_pixels
from attributary_train.corpus.item import Item, from_table
from attributary_train.errors import CorpusError
from attributary_train.files import reading

SCHEMA_VERSION = 1
ITEMS_FILE = "items.parquet"
FACTS_FILE = "corpus.json"
IMAGES_DIR = "images"
ORIGINALS_DIR = "originals"
_SUFFIX = re.compile(r"\.[a-z0-9]{1,5}")


def image_path(root: Path, number: int) -> Path:
    """Where the picture of an item lies; 256 shards keep directories small."""
    return root / IMAGES_DIR / f"{number & 0xFF:02x}" / f"{number}.png"


def original_path(root: Path, number: int, suffix: str) -> Path:
    """Where a picture of the user's own is kept as it came; `suffix` is that of its file."""
    suffix = suffix.lower() if _SUFFIX.fullmatch(suffix.lower()) else ""
    return root / ORIGINALS_DIR / f"{number & 0xFF:02x}" / f"{number}{suffix}"


class Corpus:
    """Training items in a fixed order, with their pictures: each as a square of 256 x 256 RGB, and as it is embedded.

    Open one with `Corpus.open`, make one with `build.build`. Iterating yields `Item`s.
    """

    def __init__(self, root: Path, items: Sequence[Item], facts: dict[str, Any]) -> None:
        self.root = root
        self.facts = facts  # the content of corpus.json
        self._items = tuple(items)
        self._rows = {item.id: row for row, item in enumerate(self._items)}

    @classmethod
    def open(cls, root: str | Path) -> Corpus:
        """Open a corpus directory; raises `CorpusError` naming the file that is missing or wrong."""
        root = Path(root)
        for name in (FACTS_FILE, ITEMS_FILE, IMAGES_DIR):
            if not (root / name).exists():
                raise CorpusError(str(root / name), "not found; this is not a finished corpus directory")
        with reading(root / FACTS_FILE, CorpusError):
            facts = json.loads((root / FACTS_FILE).read_text(encoding="utf-8"))
            version = facts["schema_version"]
        if version != SCHEMA_VERSION:
            raise CorpusError(
                str(root / FACTS_FILE), f"schema version {version}; this program reads {SCHEMA_VERSION}"
            )
        with reading(root / ITEMS_FILE, CorpusError):
            table = pq.read_table(root / ITEMS_FILE)
        return cls(root, from_table(table, str(root / ITEMS_FILE)), facts)

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Item]:
        return iter(self._items)

    def __getitem__(self, row: int) -> Item:
        return self._items[row]

    def __contains__(self, number: object) -> bool:
        return number in self._rows

    def item(self, number: int) -> Item:
        """Return the item of an id; raises `CorpusError` if there is none."""
        return self._items[self.row(number)]

    def row(self, number: int) -> int:
        """Return the position of an id in this corpus, from 0; raises `CorpusError` if there is none."""
        try:
            return self._rows[number]
        except KeyError:
            raise CorpusError("id", f"no item {number} in {self.root}") from None

    def image_path(self, number: int) -> Path:
        """Return where the square picture of an id lies; raises `CorpusError` if there is no such item."""
        return image_path(self.root, self.item(number).id)

    def image(self, number: int) -> Image.Image:
        """Read the square of an id, 256 x 256 RGB; raises `CorpusError` naming a file that is gone or damaged."""
        path = self.image_path(number)
        with reading(path, CorpusError), Image.open(path) as image:
            return image.convert("RGB")

    def pixels(self, number: int) -> NDArray[np.uint8]:
        """Read the picture of an id as the encoder is given it: uint8 RGB [H, W, 3], for a user's own its whole file.

        Raises `CorpusError` naming a file that is gone or damaged.
        """
        path = self._file(number)
        try:
            return decode(path.read_bytes(), max_bytes=sys.maxsize, field="it")
        except OSError as error:
            raise CorpusError(str(path), f"not readable: {error.strerror}") from error
        except InvalidArgumentError as error:
            raise CorpusError(str(path), f"not readable: it {error.message}") from error

    def square(self, number: int, size: int) -> NDArray[np.uint8]:
        """The picture of an id as a generator of this size was trained on it, uint8 RGB [size, size, 3].

        A user's own is cut from its file, a drawing shrunk from its square by averaging.
        """
        if self.is_own(number):
            return prepare_pixels(self.pixels(number), size)
        return np.asarray(self.image(number).resize((size, size), Image.Resampling.BOX))

    def is_own(self, number: int) -> bool:
        """Whether an item is a picture of the user's own, kept whole, and no rendered drawing."""
        return self._file(number) != self.image_path(number)

    def _file(self, number: int) -> Path:
        item = self.item(number)
        return self.root / item.file if item.file else image_path(self.root, item.id)

    def select(
        self,
        where: Callable[[Item], bool] | None = None,
        *,
        ids: Collection[int] | None = None,
        creators: Collection[str] | None = None,
        style_sets: Collection[str] | None = None,
    ) -> Corpus:
        """Return the items that meet every condition given, in the same order, over the same images."""
        wanted = None if ids is None else set(ids)
        kept = [
            item
            for item in self._items
            if (wanted is None or item.id in wanted)
            and (creators is None or item.creator in creators)
            and (style_sets is None or item.style_set in style_sets)
            and (where is None or where(item))
        ]
        return Corpus(self.root, kept, self.facts)
