"""Building a bundle: items and their pictures in, a verified directory out."""

from .assemble import BuildReport
from .build import build_bundle
from .from_embeddings import build_from_embeddings
from .from_student import build_from_student

__all__ = ["BuildReport", "build_bundle", "build_from_embeddings", "build_from_student"]
