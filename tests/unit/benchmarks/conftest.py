"""Scripts of benchmarks/ as modules, for as long as a file of tests needs them."""

import importlib
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[3] / "benchmarks"


@pytest.fixture(scope="module")
def script(request):
    """The script that the file names as SCRIPT; what it brought from its folder goes with it."""
    before, path = set(sys.modules), list(sys.path)
    sys.path.insert(0, str(FOLDER))
    yield importlib.import_module(request.module.SCRIPT)
    sys.path[:] = path
    for name in set(sys.modules) - before:
        if str(FOLDER) in (getattr(sys.modules[name], "__file__", None) or ""):
            del sys.modules[name]
