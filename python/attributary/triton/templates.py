"""The templates of model_repository/, filled from a bundle."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from string import Template

from attributary.errors import UnavailableError


def folder() -> Path:
    """Where the templates are: beside this file in an installed package, at the root of a checkout."""
    here = Path(__file__).resolve()
    for place in (here.parent / "model_repository", here.parents[3] / "model_repository"):
        if (place / "index" / "config.pbtxt").is_file():
            return place
    raise UnavailableError("the templates of model_repository/ are not installed with this package")


class Block(str):
    """A part of a config that is put in as it is; any other value is escaped, so that it stays within its quotes."""

    __slots__ = ()


def fill(name: str, values: Mapping[str, object]) -> str:
    """Return a template's text with every $name replaced; `name` is its path below model_repository/.

    Raises KeyError for a value that is missing.
    """
    text = (folder() / name).read_text(encoding="utf-8")
    return Template(text).substitute({key: _quotable(value) for key, value in values.items()})


def door(text: str, name: str, target: str) -> str:
    """Return the config of a model that hands everything to another: the same tensors, an ensemble of one step.

    `text` is the target's own filled config. An ensemble has neither instances nor a queue, so those are left out.
    """
    inputs, outputs = _block(text, "input"), _block(text, "output")
    size = re.search(r"^max_batch_size: (\d+)$", text, re.MULTILINE)
    parameters = re.findall(r'^parameters \{ key: "bundle(?:_id)?" .*$', text, re.MULTILINE)
    assert size is not None
    names = {
        kind: re.findall(r'name: "(\w+)"', block) for kind, block in (("input", inputs), ("output", outputs))
    }
    maps = [
        f'      {kind}_map {{ key: "{tensor}" value: "{tensor}" }}'
        for kind in names
        for tensor in names[kind]
    ]
    return "\n".join(
        [
            f"# A name that stays while bundles come and go: everything goes to {target}.",
            f'name: "{name}"',
            'platform: "ensemble"',
            f"max_batch_size: {size.group(1)}",
            inputs.replace(" allow_ragged_batch: true", ""),
            outputs,
            "ensemble_scheduling {",
            "  step [",
            "    {",
            f'      model_name: "{target}"',
            "      model_version: -1",
            *maps,
            "    }",
            "  ]",
            "}",
            *parameters,
            "",
        ]
    )


def _block(text: str, kind: str) -> str:
    found = re.search(rf"^{kind} \[.*?(?:^\]|\]$)", text, re.MULTILINE | re.DOTALL)
    assert found is not None
    return found.group(0)


def _quotable(value: object) -> str:
    text = str(value)
    if isinstance(value, Block):
        return text
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
