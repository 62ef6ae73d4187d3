"""What mkdocs does to a page before rendering it: links out of docs/ lead to what a site lacks."""

from __future__ import annotations

import re
from typing import Any

_OUTSIDE = re.compile(
    r"\[([^\]]*)\]\((?:\.\./)+(?:proto|benchmarks|python|tests|deploy|examples|README|CHANGELOG|CONTRIBUTING|NOTICE)[^)]*\)"
)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Leave the words of such a link, and drop the link."""
    return _OUTSIDE.sub(r"\1", markdown)
