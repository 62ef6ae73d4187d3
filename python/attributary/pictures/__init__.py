"""Pictures of unknown origin, read safely: walked, decoded, turned upright, brought to an encoder's size."""

from __future__ import annotations

from .decode import ReadPicture, decode, pixels_digest, prepare_pixels
from .pool import CostlyPicture, allow, read

__all__ = ["CostlyPicture", "ReadPicture", "allow", "decode", "pixels_digest", "prepare_pixels", "read"]
