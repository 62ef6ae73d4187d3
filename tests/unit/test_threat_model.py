"""docs/threat-model.md and docs/guarantees.md are true: their tests exist, and nothing of outsiders is unpickled."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SERVING = ROOT / "python" / "attributary"
# Between Ray's own processes; the page says so.
PICKLES = {"batch/ray_runner.py"}


def test_every_test_that_the_page_names_exists():
    page = (ROOT / "docs" / "threat-model.md").read_text()
    rows = [
        line
        for line in page.splitlines()
        if line.startswith("| ") and not line.startswith(("| ---", "| threat"))
    ]
    assert len(rows) > 15
    for row in rows:
        named = re.findall(r"`(tests/[^`]+\.py)`", row.rsplit(" | ", 1)[1])
        assert named, row
        for name in named:
            assert "def test_" in (ROOT / name).read_text(), name


def test_every_test_that_a_promise_names_exists():
    folder = "unit/gateway"
    named = re.findall(
        r"`((?:[a-z0-9_]+/)*test_[a-z0-9_]+\.py)`", (ROOT / "docs" / "guarantees.md").read_text()
    )
    assert len(named) > 15
    for name in named:
        # A name without a folder is of the same one as the name before it.
        folder = name.rpartition("/")[0] or folder
        path = ROOT / "tests" / folder / name.rpartition("/")[2]
        assert path.is_file() and "def test_" in path.read_text(), name


@pytest.mark.parametrize(
    "path", sorted(SERVING.rglob("*.py")), ids=lambda path: str(path.relative_to(SERVING))
)
def test_nothing_unpickles(path):
    name = str(path.relative_to(SERVING))
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
            assert not {"pickle", "marshal", "shelve", "dill", "joblib"} & set(names) or name in PICKLES, name
        if isinstance(node, ast.Call) and ast.unparse(node.func) in {"np.load", "numpy.load"}:
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            assert given.get("allow_pickle") == "False", f"{name}:{node.lineno}"
