"""HTTP and JSON beside gRPC: the same methods, limits and errors, and the page. Needs the extra `http`."""

from importlib.resources import files

# The description of the paths, written by proto/openapi.py.
OPENAPI = files(__name__) / "openapi.json"
