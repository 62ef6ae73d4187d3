"""A user's own picture: kept as it is and embedded as a query would be, with a small square of it beside it.

A server crops what it is asked about to the central square. What it answers from has to be seen through the same
window, so the item is embedded from these bytes by the very same code, and its square is cut by it too.
"""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from attributary.errors import InvalidArgumentError
from attributary.pictures import decode, pixels_digest, prepare_pixels
from attributary.pictures.looks import is_one_colour
from attributary_train.corpus import near_dup
from attributary_train.corpus.raster import (
    IMAGE_SIZE,
    Rendered,
    RenderError,
    cached_png,
    failed,
    open_raster,
    payload_bytes,
    write_png,
)

VERSION = "own-1"  # part of every cache key, as RASTER_VERSION is for drawings
MAX_BYTES = 64 * 1024 * 1024  # a file of one's own may be larger than what a stranger may send
# What Pillow calls the formats that a server reads; MPO is a JPEG with more behind it.
_SERVED = frozenset({"JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP"})


def render_own(payload: bytes | Path, cache: Path) -> Rendered:
    """Decode a picture and keep its square in `cache`; never raises for a bad one, but says so in the result."""
    try:
        data = payload_bytes(payload, svg=False)
        pixels, kept = decoded(data)
        image = square(pixels, IMAGE_SIZE)
        if is_one_colour(np.asarray(image)):
            # Asked with, it would pay nobody.
            raise RenderError("blank")
    except RenderError as error:
        return failed(str(error))
    digest = hashlib.sha256(f"{VERSION}:{IMAGE_SIZE}:".encode() + data).hexdigest()
    if not cached_png(cache, digest).exists():
        write_png(cached_png(cache, digest), image)
    embedding = near_dup.embed(np.asarray(image)).astype(np.float16)
    return Rendered(digest, pixels_digest(pixels), embedding, kept=b"" if kept is data else kept)


def decoded(data: bytes) -> tuple[NDArray[np.uint8], bytes]:
    """Return the pixels of a picture, uint8 RGB [H, W, 3], and the bytes to keep of it.

    Those are `data`, or a PNG where no server would read the format. Raises `RenderError`.
    """
    if not data:
        raise RenderError("the file is empty")
    try:
        return decode(data, max_bytes=MAX_BYTES, field="it"), data
    except InvalidArgumentError as error:
        image = _of_other_format(data)
        if image is None:
            raise RenderError(f"not a readable image: it {error.message}") from error
    stream = io.BytesIO()
    image.save(stream, "PNG")
    kept = stream.getvalue()
    try:
        return decode(kept, max_bytes=MAX_BYTES, field="it"), kept
    except InvalidArgumentError as error:
        raise RenderError(f"not a readable image: as a PNG it {error.message}") from error


def square(pixels: NDArray[np.uint8], size: int) -> Image.Image:
    """What an encoder of this size would see of a picture: RGB, size x size."""
    return Image.fromarray(prepare_pixels(pixels, size))


def _of_other_format(data: bytes) -> Image.Image | None:
    """The picture in a format that Pillow reads and a server does not; None for anything else."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.format in _SERVED:
                return None
    except Exception:  # decoders raise whatever they like on damaged files
        return None
    return open_raster(data)
