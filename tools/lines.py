"""Lines of Python by package, generated code left out, as a table: `tools/lines.py [COMMIT...] [--below FOLDER]`.

Without a commit of what is staged. Code, words (comments and docstrings) and blank lines are counted apart. Templates
and pages are not Python and not counted.
"""

from __future__ import annotations

import argparse
import ast
import subprocess
from collections import Counter, defaultdict
from pathlib import PurePosixPath

KINDS = ("code", "words", "blank")


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], capture_output=True, text=True, check=True).stdout


def kinds(text: str) -> Counter[str]:
    """How many lines of a module are code, words, blank."""
    words = set()
    for node in ast.walk(ast.parse(text)):
        held = getattr(node, "body", None)
        first = held[0] if isinstance(held, list) and held else None
        if (
            isinstance(first, ast.Expr)
            and isinstance(first.value, ast.Constant)
            and isinstance(first.value.value, str)
        ):
            words.update(range(first.lineno, (first.end_lineno or first.lineno) + 1))
    counted: Counter[str] = Counter()
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        kind = "words" if number in words or stripped.startswith("#") else "code" if stripped else "blank"
        counted[kind] += 1
    return counted


def lines(commit: str = "", below: str = "python/attributary") -> dict[str, Counter[str]]:
    """Return {package: {"files": ..., "code": ..., "words": ..., "blank": ...}} of what git knows."""
    listed = _git("ls-tree", "-r", "--name-only", commit, below) if commit else _git("ls-files", below)
    found: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for name in listed.splitlines():
        parts = PurePosixPath(name).relative_to(below).parts
        if not name.endswith(".py") or parts[0] == "v1":
            continue
        package = found[parts[0] if len(parts) > 1 else "(files)"]
        package["files"] += 1
        package.update(kinds(_git("show", f"{commit}:{name}")))  # with no commit: as it is staged
    return dict(sorted(found.items()))


def row(name: str, counted: list[Counter[str]]) -> str:
    """A line of the table: files, each kind, and all lines, for each commit."""
    cells = [
        number
        for one in counted
        for number in (one["files"], *(one[kind] for kind in KINDS), one.total() - one["files"])
    ]
    return f"| {name} | " + " | ".join(f"{number:,}" if number else "" for number in cells) + " |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("commits", nargs="*")
    parser.add_argument("--below", default="python/attributary")
    given = parser.parse_args()
    commits = given.commits or [""]
    counted = [lines(commit, given.below) for commit in commits]
    heads = [f"{what}, {commit[:7] or 'now'}" for commit in commits for what in ("files", *KINDS, "lines")]
    print(f"| package | {' | '.join(heads)} |\n|{' --- |' * (1 + len(heads))}")
    for package in sorted(set().union(*counted)):
        print(row(package, [one.get(package, Counter()) for one in counted]))
    print(row("all", [sum(one.values(), Counter()) for one in counted]))


if __name__ == "__main__":
    main()
