"""Building a bundle: items and their pictures in, a verified directory out."""

from .build import BuildReport, build_bundle

__all__ = ["BuildReport", "build_bundle"]
