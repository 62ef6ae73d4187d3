"""Whether the links that leave the repository lead somewhere: check_links.py [FILE...], `make docs-links`.

Exit status 0: all do. 1: some do not, and are told with the pages that have them. 2: there is no network here.
"""

from __future__ import annotations

import re
import sys
import urllib.error
import urllib.request
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_LINK = re.compile(r"\]\((https?://[^)\s]+)\)|<(https?://[^>\s]+)>")
_TIMEOUT_S = 20
_AT_ONCE = 8
# A page that wants a browser or fewer questions is there.
_THERE = {401, 403, 405, 406, 429}
_AGENT = {"User-Agent": "Mozilla/5.0 (link check of documents)"}
_NOT_REACHED = "not reached"


def pages() -> list[Path]:
    """Every Markdown page of the repository."""
    return [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").glob("*.md")]


def links(files: list[Path]) -> dict[str, list[str]]:
    """Return {address without its anchor: the pages that link to it}."""
    found: dict[str, list[str]] = defaultdict(list)
    for path in files:
        for groups in _LINK.findall(path.read_text(encoding="utf-8")):
            found["".join(groups).partition("#")[0]].append(path.name)
    return dict(sorted(found.items()))


def wrong(address: str) -> str:
    """What is wrong with an address: '' if it leads somewhere, _NOT_REACHED if nobody could be asked."""
    try:
        with urllib.request.urlopen(urllib.request.Request(address, headers=_AGENT), timeout=_TIMEOUT_S):
            return ""
    except urllib.error.HTTPError as error:
        return "" if error.code in _THERE else f"answers {error.code}"
    except (urllib.error.URLError, OSError) as error:
        # A name that nobody resolves, a network that cannot be reached, a proxy that is not there.
        return f"{_NOT_REACHED} ({getattr(error, 'reason', error)})"


def main() -> int:
    """Check; the exit status."""
    found = links([Path(name) for name in sys.argv[1:]] or pages())
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        told = dict(zip(found, pool.map(wrong, found), strict=True))
    if found and all(reason.startswith(_NOT_REACHED) for reason in told.values()):
        sys.stdout.write(f"There is no network here: {len(found)} links were not checked.\n")
        return 2
    for address, reason in told.items():
        if reason:
            sys.stdout.write(f"{address}: {reason}; in {', '.join(sorted(set(found[address])))}\n")
    bad = sum(bool(reason) for reason in told.values())
    sys.stdout.write(f"{len(found)} links checked, {bad} lead nowhere\n")
    return 1 if bad else 0


if __name__ == "__main__":
    raise SystemExit(main())
