"""Which part of a package imports which, read from the sources: what holds the layers and draws their picture."""

from __future__ import annotations

import ast
from pathlib import Path

PYTHON = Path(__file__).resolve().parents[1] / "python"
# Parts of parts that are floors of their own.
_FLOORS = {("delta", "journal")}


def part_of(names: tuple[str, ...] | list[str]) -> str:
    """The part that a file or a module below a package belongs to; a bundle's journal is a floor of its own."""
    return ".".join(names[:2]) if tuple(names[:2]) in _FLOORS else names[0]


def imports(path: Path, root: Path) -> set[str]:
    """Dotted names that a module of the package in `root` imports, anywhere in it, relative ones resolved."""
    package = [root.name, *path.relative_to(root).parts[:-1]]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            found |= {f"{module}.{alias.name}" for alias in node.names}
    return found


def parts(root: Path) -> dict[str, set[str]]:
    """Return {part: the parts that it imports} for every folder of a package; generated code is no part."""
    found: dict[str, set[str]] = {
        part_of(path.parent.relative_to(root).parts): set()
        for path in root.glob("**/__init__.py")
        if path.parent not in (root, root / "v1")
    }
    for path in root.rglob("*.py"):
        names = path.relative_to(root).parts
        if len(names) == 1 or names[0] == "v1":
            continue
        here = part_of(names)
        for name in imports(path, root):
            top, *rest = name.split(".")
            if top == root.name and rest and part_of(rest) in found:
                found[here].add(part_of(rest))
    return {part: others - {part} for part, others in sorted(found.items())}
