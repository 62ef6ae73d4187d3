"""A query's picture: decoded and brought to the encoder's size (`attributary.pictures`)."""

from __future__ import annotations

from attributary.pictures import decode, prepare_pixels

__all__ = ["decode", "prepare_pixels"]
