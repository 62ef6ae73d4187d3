"""HTTP and JSON beside gRPC: the same methods, limits and errors, and the page. Needs the extra `http`."""

from importlib.resources import files
from importlib.resources.abc import Traversable


def openapi_file() -> Traversable:
    """The description of the paths, written by proto/openapi.py."""
    return files(__name__) / "openapi.json"
