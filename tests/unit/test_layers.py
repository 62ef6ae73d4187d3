"""The layers of docs/architecture.md, read from the imports: arrows run one way, and serving never loads torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SERVING = Path(__file__).parents[2] / "python" / "attributary"
# What each part may import of the others; `errors`, `v1` and itself are always allowed.
ALLOWED = {
    "kernels": set(),
    "bundle": {"kernels"},
    "encoder": {"kernels", "bundle", "pictures"},
    "pictures": {"kernels"},
    "index": {"kernels", "bundle"},
    "delta.journal": {"bundle"},
    "attribution": {"bundle", "encoder", "index", "delta.journal", "kernels", "pictures"},
    "building": {"attribution", "bundle", "encoder", "index", "delta.journal", "kernels", "pictures"},
    "delta": {"attribution", "bundle", "encoder", "index", "delta.journal", "kernels", "pictures"},
    "client": {"attribution"},
    "gateway": {"attribution", "delta", "delta.journal", "pictures"},
    "triton": {"attribution", "bundle", "encoder", "index", "delta.journal", "kernels"},
    "batch": {"attribution", "bundle", "client", "encoder", "triton"},
    "cli": {
        "attribution",
        "batch",
        "building",
        "bundle",
        "client",
        "encoder",
        "delta",
        "delta.journal",
        "gateway",
        "index",
        "triton",
    },
}
ANYWHERE = {"errors", "v1"}


def part_of(names) -> str:
    """The part that a file or a module below `attributary` belongs to; a bundle's journal is a floor of its own."""
    return "delta.journal" if tuple(names[:2]) == ("delta", "journal") else names[0]


def imports(path: Path) -> set[str]:
    """Dotted names that a module imports, relative ones resolved."""
    package = ["attributary", *path.relative_to(SERVING).parts[:-1]]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            found |= {f"{module}.{alias.name}" for alias in node.names}
    return found


MODULES = sorted(path for path in SERVING.rglob("*.py") if "_pb2" not in path.name)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SERVING)))
def test_arrows_run_one_way(path):
    parts = path.relative_to(SERVING).parts
    for name in imports(path):
        top, *rest = name.split(".")
        assert top not in {"torch", "attributary_train", "transformers"}, f"{path.name} imports {name}"
        if top == "attributary" and len(parts) > 1 and rest and (SERVING / rest[0]).is_dir():
            part = part_of(parts)
            assert part_of(rest) in ALLOWED[part] | ANYWHERE | {part}, (
                f"{'/'.join(parts)} imports attributary.{'.'.join(rest)}"
            )


def test_every_part_is_listed():
    parts = {path.name for path in SERVING.iterdir() if path.is_dir() and (path / "__init__.py").is_file()}
    assert parts - ANYWHERE == {part.split(".")[0] for part in ALLOWED}


def test_serving_loads_no_torch():
    code = (
        "import sys, attributary.cli.serve, attributary.cli.query, attributary.cli.bundle, attributary.cli.demo, "
        "attributary.building; sys.exit('torch' in sys.modules or 'attributary_train' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_core_knows_no_transport():
    code = (
        "import sys, attributary.attribution.open; "
        "sys.exit(any(name.split('.')[0] in ('grpc', 'google', 'click') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_version_is_the_packages():
    from importlib.metadata import version

    import attributary

    assert attributary.__version__ == version("attributary")
