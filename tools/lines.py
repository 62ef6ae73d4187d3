"""Lines of Python by package, generated code left out: `tools/lines.py [COMMIT [FOLDER]]`; else of what is staged."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import PurePosixPath


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], capture_output=True, text=True, check=True).stdout


def lines(commit: str = "", below: str = "python/attributary") -> dict[str, tuple[int, int]]:
    """Return {package: (files, lines)} of what git knows; templates and pages are not Python and not counted."""
    listed = _git("ls-tree", "-r", "--name-only", commit, below) if commit else _git("ls-files", below)
    files: Counter[str] = Counter()
    count: Counter[str] = Counter()
    for name in listed.splitlines():
        parts = PurePosixPath(name).relative_to(below).parts
        if not name.endswith(".py") or parts[0] == "v1":
            continue
        package = parts[0] if len(parts) > 1 else "(files)"
        text = _git("show", f"{commit}:{name}")  # with no commit: as it is staged
        files[package] += 1
        count[package] += text.count("\n")
    return {package: (files[package], count[package]) for package in sorted(count)}


def main() -> None:
    """Print the table."""
    found = lines(*sys.argv[1:])
    for package, (files, count) in found.items():
        print(f"{package:12} {count:6} lines  {files:3} files")
    print(f"{'all':12} {sum(count for _, count in found.values()):6} lines")


if __name__ == "__main__":
    main()
