"""How a picture wants to be turned, as Pillow reads it from wherever it stands."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from struct import pack_into, unpack_from
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.ExifTags import Base

# The tags of a first directory; more are a way to make a reader work.
_MAX_TAGS = 1_000

# Pillow tells of each damaged tag by a warning with the sender's bytes in it, and Python keeps every text for ever.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.TiffImagePlugin$")


def orientation(info: Mapping[str | tuple[int, int], Any]) -> int:
    """Value of the orientation tag, from EXIF or XMP as Pillow keeps them in `Image.info`; 1 where there is none.

    The same as `PIL.ImageOps.exif_transpose` takes. Where that raises, the metadata is damaged: 1.
    """
    probe = Image.Image()
    probe.info = dict(info)
    try:
        if isinstance(exif := info.get("exif"), bytes):
            probe.info["exif"] = _shortened(exif)
        value = probe.getexif().get(Base.Orientation, 1)
        return int(value) if value in range(1, 9) else 1
    except Exception:
        return 1


def upright(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Undo the camera's orientation (EXIF 2.32, tag 0x0112) of [H, W, 3]; the result may be a view."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels


def _shortened(exif: bytes) -> bytes:
    """The same block with a first directory of at most _MAX_TAGS tags. Source: TIFF 6.0, section 2."""
    start = len(exif) - len(re.sub(b"^(Exif\0\0){1,2}", b"", exif))  # as Pillow does
    order = "<" if exif.startswith(b"II", start) else ">"
    (directory,) = unpack_from(order + "I", exif, start + 4)
    at = start + directory
    if at + 2 > len(exif) or unpack_from(order + "H", exif, at)[0] <= _MAX_TAGS:
        return exif
    short = bytearray(exif)
    pack_into(order + "H", short, at, _MAX_TAGS)
    return bytes(short)
