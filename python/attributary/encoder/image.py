"""A query's picture: decoded and brought to the encoder's size (`attributary.pictures`)."""

from __future__ import annotations

from attributary.pictures import decode, prepare_pixels
from attributary.pictures.formats import FORMATS, MAX_BYTES

__all__ = ["FORMATS", "MAX_BYTES", "decode", "prepare_pixels"]
