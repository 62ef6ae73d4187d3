"""Small pictures of a corpus's items, for the optional part of a bundle that people look at."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from attributary.errors import InvalidArgumentError

from .embed import read_picture
from .source import Source, read_source

SIDE: Final = 160
_QUALITY: Final = 80


def pictured(
    corpus: Path, ids: NDArray[np.int64] | None = None, licences: tuple[str, ...] = ()
) -> dict[int, Path]:
    """Where the pictures lie that a bundle may show, by item id: all, or those of items under `licences` alone.

    Raises InvalidArgumentError if `corpus` is no directory with pictures.
    """
    if not corpus.is_dir():
        raise InvalidArgumentError(
            "thumbnails", f"{corpus} is no corpus directory: there are no pictures in it"
        )
    return pictured_in(read_source(corpus), ids, licences)


def pictured_in(
    source: Source, ids: NDArray[np.int64] | None = None, licences: tuple[str, ...] = ()
) -> dict[int, Path]:
    """The same of a source that was read before."""
    ids_of_rows: list[int] = source.table.column("id").to_numpy().tolist()
    licences_of_rows = source.table.column("licence").to_pylist()
    wanted = None if ids is None else set(ids.tolist())
    return {
        item_id: path
        for item_id, licence, path in zip(ids_of_rows, licences_of_rows, source.pictures, strict=True)
        if (wanted is None or item_id in wanted) and (not licences or licence in licences)
    }


def shrunk(pictures: dict[int, Path]) -> Iterator[tuple[int, bytes]]:
    """Yield (id, WebP) with the long side at most `SIDE` pixels, by ascending id; raises InvalidArgumentError."""
    for item_id in sorted(pictures):
        picture = Image.fromarray(read_picture(pictures[item_id], None))
        picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
        out = io.BytesIO()
        picture.save(out, "WEBP", quality=_QUALITY)
        yield item_id, out.getvalue()
