"""The layers of docs/architecture.md, read from the imports: arrows run one way, and serving never loads torch."""

import subprocess
import sys
from pathlib import Path

import pytest

import diagram
from arrows import imports, part_of

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
    "generator": set(),
    "client": {"attribution"},
    "receipts": {"attribution", "bundle", "pictures"},
    "gateway": {"attribution", "delta", "delta.journal", "generator", "pictures", "receipts"},
    "triton": {"attribution", "bundle", "encoder", "index", "delta.journal", "kernels"},
    "batch": {"attribution", "bundle", "client", "encoder", "receipts", "triton"},
    "cli": {
        "kernels",
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
        "pictures",
        "receipts",
        "triton",
    },
}
ANYWHERE = {"errors", "v1"}


MODULES = sorted(path for path in SERVING.rglob("*.py") if "_pb2" not in path.name)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SERVING)))
def test_arrows_run_one_way(path):
    parts = path.relative_to(SERVING).parts
    for name in imports(path, SERVING):
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


def test_the_page_on_architecture_has_a_row_for_every_part():
    page = (SERVING.parents[1] / "docs" / "architecture.md").read_text()
    table = page[page.index("| part |") :].split("\n\n")[0]
    rows = [line.split("`")[1] for line in table.splitlines()[2:]]
    assert sorted(rows) == sorted(ALLOWED)


def test_the_picture_of_the_architecture_is_that_of_the_folders():
    drawn = diagram.PICTURE.read_text(encoding="utf-8")
    assert drawn == diagram.picture(), "python tools/diagram.py draws it anew"
    for part in [*ALLOWED, *TRAINING_ALLOWED]:
        assert f">{part}<" in drawn


def test_nothing_imports_tools_or_examples():
    beside = {
        path.stem for folder in ("tools", "examples") for path in (SERVING.parents[1] / folder).iterdir()
    }
    assert {name.split(".")[0] for path in MODULES for name in imports(path, SERVING)} & beside == set()


TRAINING = SERVING.with_name("attributary_train")
_GROUND = {"corpus", "generators", "subject", "towers"}
_TAUGHT = _GROUND | {"jobs", "teacher", "evaluation"}
# What each part of `attributary_train` may import of the others; `attributary`, what is common, and itself always.
TRAINING_ALLOWED = {
    "jobs": set(),
    "towers": set(),
    "corpus": set(),
    "generators": {"corpus", "subject", "towers"},
    "subject": {"corpus", "generators", "towers"},
    "teacher": _GROUND | {"jobs"},
    "evaluation": _GROUND | {"jobs", "teacher"},
    "student": _TAUGHT,
    "calibration": _TAUGHT,
    "customization": _TAUGHT | {"calibration", "student"},
    "audit": _TAUGHT | {"calibration"},
    "own": _TAUGHT | {"calibration"},
}
TRAINING_MODULES = sorted(TRAINING.rglob("*.py"))


def training_imports(path: Path) -> set[str]:
    """Modules of attributary_train that one of them imports, at its head or in a function, by dotted name."""
    found = set()
    for name in imports(path, TRAINING):
        parts = name.split(".")
        if parts[0] == TRAINING.name:
            while len(parts) > 1 and not TRAINING.parent.joinpath(*parts).with_suffix(".py").is_file():
                if TRAINING.parent.joinpath(*parts, "__init__.py").is_file():
                    break
                parts.pop()
            found.add(".".join(parts[1:]))
    here = ".".join(path.relative_to(TRAINING).with_suffix("").parts).removesuffix(".__init__")
    return found - {"", here}


@pytest.mark.parametrize("path", TRAINING_MODULES, ids=lambda path: str(path.relative_to(TRAINING)))
def test_arrows_of_training_run_one_way(path):
    parts = path.relative_to(TRAINING).parts
    if len(parts) == 1:
        return  # What is common, and the command line.
    for name in training_imports(path):
        assert name.split(".")[0] in TRAINING_ALLOWED[parts[0]] | {"console", "errors", "files", parts[0]}, (
            f"{'/'.join(parts)} imports {name}"
        )


def test_no_modules_of_training_import_each_other_in_a_circle():
    names = {path: ".".join(path.relative_to(TRAINING).with_suffix("").parts) for path in TRAINING_MODULES}
    arrows = {name.removesuffix(".__init__"): training_imports(path) for path, name in names.items()}
    # Take away, again and again, what imports nothing that is left, or is imported by nothing: circles are what stays.
    free = {""}
    while free:
        wanted = set().union(*arrows.values())
        free = {name for name, others in arrows.items() if not others & arrows.keys() or name not in wanted}
        arrows = {name: others for name, others in arrows.items() if name not in free}
    assert not arrows, f"in a circle, or between two: {sorted(arrows)}"


def test_every_part_of_training_is_listed():
    assert {path.parent.name for path in TRAINING.glob("*/__init__.py")} == TRAINING_ALLOWED.keys()


def test_pictures_are_rendered_without_torch():
    code = (
        "import sys, attributary_train.corpus.commands, attributary_train.corpus.build; "
        "sys.exit(any(name in sys.modules for name in ('torch', 'safetensors', 'filelock')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_serving_loads_no_torch():
    code = (
        "import sys, attributary.cli.serve, attributary.cli.query, attributary.cli.bundle, attributary.cli.score, "
        "attributary.building; sys.exit('torch' in sys.modules or 'attributary_train' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_what_takes_calls_is_left_to_be_imported_while_bundles_open():
    code = (
        "import sys, attributary.cli.serve; "
        "sys.exit(any(name in sys.modules for name in ('attributary.gateway.server', 'structlog', 'uvloop')))"
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
