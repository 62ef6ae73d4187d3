"""The files of the page: read once, served as they are. Nothing on it is made from what anybody sent."""

from __future__ import annotations

import hashlib
from importlib.resources import files
from typing import Final, NamedTuple

_KINDS: Final = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}


class File(NamedTuple):
    """A file of the page."""

    data: bytes
    kind: str
    tag: str  # ETag


def read_files() -> dict[str, File]:
    """Return the page's files by path; `/` is its `index.html`."""
    found = {}
    for entry in (files("attributary.gateway.http") / "static").iterdir():
        kind = _KINDS.get("." + entry.name.rpartition(".")[2])
        if kind is not None:
            data = entry.read_bytes()
            found["/" + entry.name] = File(data, kind, f'"{hashlib.sha256(data).hexdigest()[:16]}"')
    found["/"] = found["/index.html"]
    return found
