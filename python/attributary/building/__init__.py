"""Building a bundle: items and their pictures in, a verified directory out."""

from .build import BuildReport, build_bundle
from .from_embeddings import build_from_embeddings
from .from_student import build_from_student

__all__ = ["BuildReport", "build_bundle", "build_from_embeddings", "build_from_student"]
