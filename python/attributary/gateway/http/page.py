"""The files of the page: read once, served as they are. Nothing on it is made from what anybody sent."""

from __future__ import annotations

import base64
import hashlib
import json
import re
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


def styles(report: bytes) -> list[str]:
    """Return the hashes of the style sheets inside a report, as a Content-Security-Policy names them."""
    found = re.findall(rb"<style>(.*?)</style>", report, re.DOTALL)
    return [f"'sha256-{base64.b64encode(hashlib.sha256(text).digest()).decode()}'" for text in found]


def read_files(*, report: bool, generator: bool) -> dict[str, File]:
    """Return the page's files by path; `/` is its `index.html`, `/page.json` says which views this server has."""
    found = {}
    for entry in (files("attributary.gateway.http") / "static").iterdir():
        kind = _KINDS.get("." + entry.name.rpartition(".")[2])
        if kind is not None:
            data = entry.read_bytes()
            found["/" + entry.name] = _tagged(data, kind)
    views = json.dumps({"report": report, "generator": generator}).encode()
    found["/page.json"] = _tagged(views, "application/json")
    found["/"] = found["/index.html"]
    return found


def _tagged(data: bytes, kind: str) -> File:
    return File(data, kind, f'"{hashlib.sha256(data).hexdigest()[:16]}"')
