"""Pictures of unknown origin, read safely: walked, decoded, turned upright, brought to an encoder's size."""

from __future__ import annotations

from .decode import decode, prepare_pixels
from .pool import CostlyPicture, ReadPicture, read

__all__ = ["CostlyPicture", "ReadPicture", "decode", "prepare_pixels", "read"]
