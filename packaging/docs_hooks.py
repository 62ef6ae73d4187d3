"""What mkdocs does besides rendering: reference pages are written, links out of docs/ lead to what a site lacks."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

_OUTSIDE = re.compile(
    r"\[([^\]]*)\]\((?:\.\./)+(?:proto|benchmarks|python|tests|deploy|examples|README|CHANGELOG|CONTRIBUTING|NOTICE)[^)]*\)"
)


def on_files(files: Any, config: Any, **_: Any) -> Any:
    """Add the pages of packaging/reference.py."""
    reference = runpy.run_path(str(Path(__file__).with_name("reference.py")))
    for path, text in reference["pages"]().items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Leave the words of such a link, and drop the link."""
    return _OUTSIDE.sub(r"\1", markdown)
