"""What is installed is what is in the tree."""

import tomllib
from pathlib import Path

TRAIN = Path(__file__).parents[2] / "python" / "attributary_train"


def test_every_training_subpackage_is_listed():
    listed = tomllib.loads((TRAIN / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = {
        ".".join(["attributary_train", *path.parent.relative_to(TRAIN).parts])
        for path in TRAIN.rglob("__init__.py")
    }
    assert set(listed) == found
